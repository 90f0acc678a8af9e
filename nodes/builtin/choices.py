"""Values chosen while a graph runs: the editor's switch and its list of one's own."""


class ComfySwitchNode:
    """One of two inputs, of any type. What only the other one needs is not run."""

    TITLE = "Switch"
    CATEGORY = "logic"
    FUNCTION = "execute"
    RETURN_TYPES = ("*",)
    RETURN_NAMES = ("output",)
    EXPERIMENTAL = True

    @classmethod
    def INPUT_TYPES(cls):
        either = ("*", {"lazy": True})
        return {"required": {"switch": ("BOOLEAN", {"default": False}), "on_false": either, "on_true": either}}

    def check_lazy_status(self, switch, on_false=None, on_true=None):
        name, value = ("on_true", on_true) if switch else ("on_false", on_false)
        return [name] if value is None else []

    def execute(self, switch, on_false=None, on_true=None):
        return (on_true if switch else on_false,)


class CustomCombo:
    """A text out of a list that is kept in the graph; the list itself is the editor's page's."""

    TITLE = "Custom Combo"
    CATEGORY = "utils"
    FUNCTION = "execute"
    RETURN_TYPES = ("STRING",)
    EXPERIMENTAL = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"choice": ([],)}}

    @classmethod
    def VALIDATE_INPUTS(cls, choice=None):
        return True  # naming it, so that it need not be in the list, which is not known here

    def execute(self, choice):
        return (choice,)
