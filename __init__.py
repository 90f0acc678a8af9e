"""ComfyUI's door to the pack. Everything lives in the rooms below; nothing heavy is imported here."""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
from .nodes.host import current_host

WEB_DIRECTORY = "./web"

current_host().model_folders()  # models/unclip is in ComfyUI's own lists of models from the start

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]
