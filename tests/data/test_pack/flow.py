"""Nodes that steer: lists, lazy inputs, a blocker."""


class ExecutionBlocker:
    """Stands in for the editor's class where there is no editor."""

    def __init__(self, message):
        self.message = message


class ListSource:
    """The numbers below `count`, as a list."""

    RETURN_TYPES = ("INT", "INT")
    OUTPUT_IS_LIST = (True, False)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"count": ("INT", {"default": 3, "min": 1, "max": 100})}}

    def go(self, count):
        return list(range(count)), count


class WholeLists:
    """Gets lists, gives their lengths and their sum."""

    RETURN_TYPES = ("STRING", "INT")
    INPUT_IS_LIST = True
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"numbers": ("INT", {"forceInput": True}), "name": ("STRING", {"default": "n"})}}

    def go(self, numbers, name):
        return f"{name!r} {len(numbers)}", sum(numbers)


class LazySwitch:
    """`yes` or `no`; only that one is computed."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "go"

    @classmethod
    def INPUT_TYPES(cls):
        lazy = ("INT", {"lazy": True, "forceInput": True})
        return {"required": {"choose": ("BOOLEAN", {"default": True}), "yes": lazy, "no": lazy}}

    def check_lazy_status(self, choose, yes=None, no=None):
        name, value = ("yes", yes) if choose else ("no", no)
        return [name] if value is None else []

    def go(self, choose, yes=None, no=None):
        return (yes if choose else no,)


class Blocked:
    """Lets all numbers through but one."""

    RETURN_TYPES = ("INT",)
    FUNCTION = "go"
    BLOCKER = ExecutionBlocker

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"number": ("INT", {"forceInput": True}), "stop": ("INT", {"default": 1})}}

    def go(self, number, stop):
        return (self.BLOCKER(None) if number == stop else number,)
