"""The paper's experiments at storybook scale, a file each, in the report's order."""

from . import (
    analytic,
    binding,
    guidance,
    inpainting,
    interpolation,
    judges,
    pca,
    prior_importance,
    priors,
    reconstruction,
    spelling,
    text_diff,
    typographic,
    variations,
)
from .common import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        judges,
        reconstruction,
        variations,
        interpolation,
        text_diff,
        inpainting,
        pca,
        prior_importance,
        priors,
        analytic,
        guidance,
        binding,
        spelling,
        typographic,
    )
}
