"""The copies that tests of checkpoints work on: they take no place, and who writes into the source is told."""

from comfyui_unclip.tests.copies import copy_folder, own, written_into


def test_weights_are_shared_until_they_are_owned_and_writing_into_them_is_noticed(tmp_path):
    source = tmp_path / "source"
    (source / "unet").mkdir(parents=True)
    weights, config = source / "unet" / "weights.safetensors", source / "config.json"
    weights.write_bytes(b"0" * 1000)
    config.write_text("{}")
    first, second = (copy_folder(source, tmp_path / name) for name in ("first", "second"))
    assert weights.stat().st_nlink == 3 and config.stat().st_nlink == 1
    (first / "config.json").write_text("[]")
    own(first / "unet" / weights.name).write_bytes(b"1")
    (second / "unet" / weights.name).unlink()
    assert written_into() == [] and config.read_text() == "{}" and weights.read_bytes() == b"0" * 1000
    third = copy_folder(source, tmp_path / "third")
    (third / "unet" / weights.name).write_bytes(b"1")
    assert written_into() == [str(weights)]
