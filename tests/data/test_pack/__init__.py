"""A small V1 node pack: one node for each rule of the executor. Also run through a real ComfyUI, for comparison."""

from .flow import Blocked, LazySwitch, ListSource, WholeLists
from .values import Checked, Counted, FailsOn, Hidden, Label, Report, Total

NODE_CLASS_MAPPINGS = {
    f"UnclipTest{node.__name__}": node
    for node in (Blocked, Checked, Counted, FailsOn, Hidden, Label, LazySwitch, ListSource, Report, Total, WholeLists)
}
NODE_DISPLAY_NAME_MAPPINGS = {"UnclipTestTotal": "Total of everything"}
