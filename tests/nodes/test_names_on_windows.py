"""Names that graphs and pages give to files, by the rules of Windows and of POSIX, whichever this machine is."""

from pathlib import PurePosixPath, PureWindowsPath

import pytest

from comfyui_unclip.nodes.files import UnusableName, joined_inside

WINDOWS, POSIX = PureWindowsPath(r"C:\ComfyUI\out"), PurePosixPath("/home/me/out")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("a/b.png", r"C:\ComfyUI\out\a\b.png"),
        (r"a\..\b.png", r"C:\ComfyUI\out\b.png"),
        ("夜空/红星.png", r"C:\ComfyUI\out\夜空\红星.png"),
        ("console.png", r"C:\ComfyUI\out\console.png"),
        ("com10", r"C:\ComfyUI\out\com10"),
        (".hidden", r"C:\ComfyUI\out\.hidden"),
        ("a b.c d", r"C:\ComfyUI\out\a b.c d"),
    ],
)
def test_what_is_a_name_on_windows_lies_in_the_folder(given, found):
    assert joined_inside(WINDOWS, given) == PureWindowsPath(found)
    assert joined_inside(POSIX, given).is_relative_to(POSIX)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        *((name, "is a device") for name in ("CON", "nul.png", "Aux .txt", "a/com1.json", "LPT9", "com¹", "conout$")),
        *((name, "no name on Windows can") for name in ("a:b", "C:x", "a?", "x*.png", "a|b", '"a"', "<a>")),
        *((name, "drops") for name in ("a.", "a /b", "x.png ", "...")),
        *((name, "no name on Windows can") for name in (r"C:\Windows\win.ini", r"\\?\C:\x", "a.png::$DATA")),
    ],
)
def test_what_would_be_a_device_a_stream_or_another_name_is_refused_there_alone(given, why):
    with pytest.raises(UnusableName, match=why):
        joined_inside(WINDOWS, given)
    if not given.startswith("\\"):
        assert joined_inside(POSIX, given).is_relative_to(POSIX)


@pytest.mark.parametrize("root", [WINDOWS, POSIX], ids=["Windows", "POSIX"])
@pytest.mark.parametrize(
    "given",
    ["..", "../x", r"..\x", "a/../../x", "/etc/passwd", r"\\server\share\x", "//server/share/x", r"\x", "a/../.."],
)
def test_what_leads_out_is_refused_by_both_systems_rules(root, given):
    with pytest.raises(ValueError, match="leads out of the folder"):
        joined_inside(root, given)


@pytest.mark.parametrize("root", [WINDOWS, POSIX], ids=["Windows", "POSIX"])
@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("a\0b", "control character"),
        ("a\x1b[2J", "control character"),
        ("a\nb", "control character"),
        ("a\x9bb", "control character"),
        ("\ud800", "half of a character"),
        ("日" * 86, "258 bytes"),
        ("a/" * 64 + "a", "64 folders"),
        ("/".join(["a" * 200] * 6), "1024 signs"),
    ],
)
def test_what_no_system_should_have_as_a_name_is_refused_by_both(root, given, why):
    with pytest.raises(UnusableName, match=why):
        joined_inside(root, given)


def test_a_folders_own_odd_names_stay_reachable(tmp_path):
    """Bytes that are no UTF-8, as os.listdir gives them."""
    assert joined_inside(POSIX, "caf\udce9.png") == POSIX / "caf\udce9.png"
