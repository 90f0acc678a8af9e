"""The pack's nodes: thin V1 classes over unclip_core, one file per theme.

With release 1.0.0 ids freeze and inputs are only ever added at the end.
"""

from .acceleration import UnCLIPGuidanceInterval, UnCLIPStepCache
from .animation import UnCLIPSaveAnimation
from .ar_prior import UnCLIPAutoregressivePrior
from .batches import (
    UnCLIPEmbeddingBatch,
    UnCLIPEmbeddingFromBatch,
    UnCLIPNoiseBatch,
    UnCLIPNoiseFromBatch,
    UnCLIPTextBatch,
    UnCLIPTextFromBatch,
)
from .clip_vision import UnCLIPFromClipVision, UnCLIPToClipVision
from .decoder import UnCLIPCLIPGuidance, UnCLIPDecoderSample, UnCLIPDepthHint
from .embedding import (
    UnCLIPEmbeddingBlend,
    UnCLIPNoiseEmbedding,
    UnCLIPSlerpEmbedding,
    UnCLIPTextAsEmbedding,
    UnCLIPTextDiff,
)
from .embedding_files import UnCLIPLoadEmbedding, UnCLIPSaveEmbedding
from .example import UnCLIPExamplePicture
from .grid import UnCLIPImageGrid
from .image import UnCLIPImageEncode
from .loader import UnCLIPLoader
from .lora import UnCLIPApplyLoRA
from .noise import UnCLIPDDIMInvert, UnCLIPRandomNoise, UnCLIPSlerpNoise, UnCLIPStartFromPicture
from .pca import UnCLIPPCAProject
from .prior import UnCLIPDiffusionPrior
from .rank import UnCLIPRankByCLIP
from .text import UnCLIPTextEncode
from .upsample import UnCLIPUpsample256, UnCLIPUpsample1024
from .zero_shot import UnCLIPZeroShot

_CLASSES = (
    UnCLIPLoader,
    UnCLIPApplyLoRA,
    UnCLIPTextEncode,
    UnCLIPImageEncode,
    UnCLIPTextAsEmbedding,
    UnCLIPDiffusionPrior,
    UnCLIPAutoregressivePrior,
    UnCLIPDDIMInvert,
    UnCLIPRandomNoise,
    UnCLIPSlerpEmbedding,
    UnCLIPSlerpNoise,
    UnCLIPTextDiff,
    UnCLIPEmbeddingBlend,
    UnCLIPEmbeddingBatch,
    UnCLIPEmbeddingFromBatch,
    UnCLIPTextBatch,
    UnCLIPTextFromBatch,
    UnCLIPNoiseBatch,
    UnCLIPNoiseFromBatch,
    UnCLIPRankByCLIP,
    UnCLIPNoiseEmbedding,
    UnCLIPPCAProject,
    UnCLIPStartFromPicture,
    UnCLIPCLIPGuidance,
    UnCLIPGuidanceInterval,
    UnCLIPStepCache,
    UnCLIPDepthHint,
    UnCLIPDecoderSample,
    UnCLIPUpsample256,
    UnCLIPUpsample1024,
    UnCLIPImageGrid,
    UnCLIPSaveAnimation,
    UnCLIPSaveEmbedding,
    UnCLIPLoadEmbedding,
    UnCLIPToClipVision,
    UnCLIPFromClipVision,
    UnCLIPExamplePicture,
    UnCLIPZeroShot,
)

NODE_CLASS_MAPPINGS = {node.__name__: node for node in _CLASSES}
NODE_DISPLAY_NAME_MAPPINGS = {node.__name__: node.TITLE for node in _CLASSES}
