"""What the READMEs show in Python runs as it stands, here with the tiny stack's weights."""

import re
import runpy

import pytest


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_python_section_runs(repository, tiny_stack, name, tmp_path, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", (repository / name).read_text(encoding="utf-8"), re.DOTALL)
    assert len([line for line in block.splitlines() if line]) <= 8
    script = tmp_path / "readme.py"
    script.write_text(block.replace('"storybook"', f'"{tiny_stack}"'), encoding="utf-8")
    found = runpy.run_path(str(script))
    assert (
        tuple(found["picture"].shape) == (1, 1024, 1024, 3)
        and 0 <= found["picture"].min() <= found["picture"].max() <= 1
    )
    assert capsys.readouterr().out.splitlines()[0] == "0 3"
