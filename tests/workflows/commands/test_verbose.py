"""`unclip run --verbose` says what the program chose for itself."""

import logging

from comfyui_unclip.workflows.cli import run


def test_verbose_names_allocator_networks_dtype_and_threads(tiny_stack, tmp_path, repository, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("comfyui_unclip"), "level", logging.WARNING)  # put back afterwards
    graph = str(repository / "workflows" / "text_to_image.json")
    command = ["run", graph, "-o", str(tmp_path), "-s", "model=tiny", "-s", "dtype=fp32"]
    assert run(command) == 0
    assert not [record for record in caplog.records if record.levelno < logging.WARNING]
    caplog.clear()
    assert run([*command, "--verbose"]) == 0
    said = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("allocator: ") for line in said)
    for network in ("PriorNetwork", "DecoderNetwork", "UpsamplerNetwork"):
        (line, *_) = [line for line in said if line.startswith(network)]
        assert "M parameters" in line and "float32 for cpu" in line and "threads" in line
