"""The bridge between our image embeddings and the editor's CLIP_VISION_OUTPUT, both ways."""

from .inputs import FAMILY


class ClipVisionOutput:
    """What the editor's nodes read of a CLIP_VISION_OUTPUT: attributes, also by item. Only image_embeds is there."""

    last_hidden_state = None
    penultimate_hidden_states = None
    mm_projected = None

    def __init__(self, image_embeds) -> None:
        self.image_embeds = image_embeds

    def __getitem__(self, name: str):
        return getattr(self, name)


class UnCLIPToClipVision:
    """An image embedding as the editor's own CLIP_VISION_OUTPUT."""

    TITLE = "To CLIP Vision Output"
    SEARCH_ALIASES = (*FAMILY, "sd21", "unclipconditioning", "clip vision", "bridge", "convert")
    DESCRIPTION = (
        "Hands one image embedding to the editor's own unCLIPConditioning, so that our prior drives the editor's "
        "model: Karlo's (768-d) fits sd21-unclip-l, Kandinsky 2.2's (1280-d) SDXL; sd21-unclip-h reads ViT-H's 1024-d."
    )
    CATEGORY = "unCLIP/embedding"
    FUNCTION = "convert"
    RETURN_TYPES = ("CLIP_VISION_OUTPUT",)
    RETURN_NAMES = ("CLIP VISION OUTPUT",)
    OUTPUT_TOOLTIPS = (
        "For unCLIPConditioning. It has the projected embedding alone: nodes that read hidden states, such as "
        "IP-Adapter, cannot use it.",
    )

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "embed": ("UNCLIP_EMBED", {"tooltip": "Image embeddings, as a prior or CLIP Image Encode gives them."}),
                "row": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 9999,
                        "tooltip": "Which row of a batch. The editor would add several rows up into one.",
                    },
                ),
            }
        }

    def convert(self, *, embed, row):
        if row >= len(embed):
            raise ValueError(
                f"To CLIP Vision Output: row {row} of a batch of {len(embed)}; choose 0 to {len(embed) - 1}"
            )
        if embed.modality != "image":
            raise ValueError(
                "To CLIP Vision Output: this is a text embedding, which no image decoder was trained on; send it "
                "through the Diffusion Prior first"
            )
        if embed.noise_level:
            raise ValueError(
                f"To CLIP Vision Output: this embedding has noise of level {embed.noise_level}, of which the editor's "
                "nodes would not know; link the one from before Noise Embedding, and use unCLIPConditioning's own "
                "noise_augmentation"
            )
        vector = embed.vector[row : row + 1].float().cpu()
        return (ClipVisionOutput(vector),)


class UnCLIPFromClipVision:
    """The editor's CLIP_VISION_OUTPUT as an image embedding."""

    TITLE = "From CLIP Vision Output"
    SEARCH_ALIASES = (*FAMILY, "clip vision", "bridge", "convert", "variation")
    DESCRIPTION = (
        "Takes what the editor's CLIP Vision Encode saw into our decoder. The CLIP Vision model must be the unCLIP "
        "model's: OpenAI's ViT-L/14 for Karlo, ViT-bigG/14 for Kandinsky 2.2, ViT-H/14 for stable-diffusion-2-1-unclip."
    )
    CATEGORY = "unCLIP/embedding"
    FUNCTION = "convert"
    RETURN_TYPES = ("UNCLIP_EMBED",)
    RETURN_NAMES = ("EMBED",)
    OUTPUT_TOOLTIPS = ("Image embeddings, one for each picture that was encoded.",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "clip": ("UNCLIP_CLIP", {"tooltip": "CLIP of Load unCLIP, whose place the editor's encoder takes."}),
                "clip_vision_output": ("CLIP_VISION_OUTPUT", {"tooltip": "From the editor's CLIP Vision Encode."}),
            }
        }

    def convert(self, *, clip, clip_vision_output):
        import torch.nn.functional as F

        from ..unclip_core.presets import CLIP_OF_DIM, explain_clip
        from ..unclip_core.types import Embedding

        vector = getattr(clip_vision_output, "image_embeds", None)
        if vector is None or vector.ndim != 2:
            shape = None if vector is None else tuple(vector.shape)
            raise ValueError(
                f"From CLIP Vision Output: it has no projected embedding (B, D), got {shape}; use CLIP Vision Encode "
                "with a CLIP Vision model, not SigLIP or DINO"
            )
        config = clip.config
        # The editor's output does not say which CLIP made it: the dimension is what can be checked.
        if vector.shape[1] != config.embed_dim:
            fix = "encode the picture with CLIP Image Encode instead"
            if config.architecture:  # a public CLIP, which the editor can open as well
                fix = f"give Load CLIP Vision the file of {config.clip_id}, or {fix}"
            own, dim = explain_clip(config.clip_id, config.embed_dim), vector.shape[1]
            other = f"{dim}-d, as {CLIP_OF_DIM[dim]}'s is" if dim in CLIP_OF_DIM else f"{dim}-d"
            raise ValueError(
                f"From CLIP Vision Output: the CLIP of this Load unCLIP is {own}, but clip_vision_output is {other}; "
                f"{fix}"
            )
        vector = vector.float().cpu()
        return (Embedding(F.normalize(vector, dim=-1) if config.normalised else vector, clip.clip_id, "image"),)
