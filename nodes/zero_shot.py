"""Zero-Shot Classify: what CLIP takes a picture for."""

from .inputs import FAMILY


class UnCLIPZeroShot:
    """CLIP's verdict on a picture among labels of your own."""

    TITLE = "Zero-Shot Classify"
    SEARCH_ALIASES = (*FAMILY, "clip", "classification", "label", "typographic attack", "probability")
    DESCRIPTION = (
        "Asks CLIP which of your labels a picture shows. Letter a word over an object and CLIP may read instead of "
        "look, while the decoder still paints the object: the paper's typographic attack."
    )
    CATEGORY = "unCLIP/picture"
    FUNCTION = "classify"
    OUTPUT_NODE = True
    RETURN_TYPES = ("STRING", "IMAGE")
    RETURN_NAMES = ("PROBABILITIES", "CHART")
    OUTPUT_TOOLTIPS = (
        "One line a picture: label and probability, most likely first.",
        "A bar chart for each picture, most likely label first.",
    )

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "clip": ("UNCLIP_CLIP", {"tooltip": "CLIP of Load unCLIP.", "needs": ["text", "image"]}),
                "image": ("IMAGE", {"tooltip": "The pictures to judge."}),
                "labels": (
                    "STRING",
                    {
                        "multiline": True,
                        "default": "a red apple\na blue car\na fish",
                        "tooltip": "What it may be, one label a line; whole captions work best.",
                    },
                ),
            }
        }

    @classmethod
    def VALIDATE_INPUTS(cls, labels=None):
        if labels is not None and not labels.strip():
            return "the list of labels is empty; write one label a line, such as 'a red apple'"
        return True

    def classify(self, *, clip, image, labels):
        import torch

        from ..unclip_core.clip.zero_shot import classify
        from ..unclip_core.pictures.drawing import bar_chart

        names = [line.strip() for line in labels.splitlines() if line.strip()]
        table = classify(clip, image, names).tolist()
        tables = [sorted(zip(names, row, strict=True), key=lambda pair: -pair[1]) for row in table]
        lines = [", ".join(f"{name} {100 * value:.1f} %" for name, value in ranked) for ranked in tables]
        charts = torch.cat([bar_chart(*zip(*ranked, strict=True)) for ranked in tables])
        shown = {"text": lines, "labels": [names], "probabilities": table}
        return {"ui": shown, "result": ("\n".join(lines), charts)}
