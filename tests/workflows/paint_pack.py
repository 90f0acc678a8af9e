"""A node pack for `--nodes`: a caption and a picture painted from it, quick, slow or failing as a test wants it."""

import time


class Caption:
    RETURN_TYPES = ("STRING",)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {"default": "a"})}}

    def go(self, text):
        return (text,)


class Paint:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "caption": ("STRING", {"forceInput": True}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 1000}),
                "scale": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 2.0}),
                "seconds": ("FLOAT", {"default": 0.0}),
                "side": ("INT", {"default": 4}),
            }
        }

    def go(self, caption, seed, scale, seconds, side):
        import torch

        time.sleep(seconds)
        if caption == "odd":
            from comfyui_unclip.nodes.host import current_host

            current_host().warn("odd is an unknown word")
        if caption == "bad":
            raise RuntimeError("this caption cannot\nbe painted")
        if caption == "die":
            import os

            os._exit(9)
        return (torch.full((1, side, side, 3), (len(caption) * 16 + seed) % 256 / 255 * scale),)


NODE_CLASS_MAPPINGS = {"Caption": Caption, "Paint": Paint}
