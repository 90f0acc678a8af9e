"""Any image goes in, and a mask follows its image."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from comfyui_unclip.unclip_core.pictures.fitting import Picture, fit_mask, fit_picture
from comfyui_unclip.unclip_core.pictures.resizing import resize_bicubic, resize_for_gradient, thin_for_gradient

SIZE = (64, 64)


def image(height, width, channels=3, rows=1, seed=0):
    return torch.rand(rows, height, width, channels, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("crop", ["center", "squash"])
@pytest.mark.parametrize(
    ("height", "width", "channels", "rows"),
    [(64, 64, 3, 2), (1, 1, 3, 1), (1, 300, 4, 1), (8000, 40, 1, 1), (90, 70, 4, 3), (16, 16, 1, 1), (65, 64, 3, 1)],
)
def test_any_size_and_kind_becomes_a_square(height, width, channels, rows, crop):
    x = fit_picture("Test", image(height, width, channels, rows), SIZE, crop)
    assert x.shape == (rows, 3, 64, 64) and x.dtype == torch.float32
    assert torch.isfinite(x).all() and x.min() >= -1 and x.max() <= 1


def test_a_picture_of_the_right_size_is_not_touched():
    picture = image(64, 64)
    assert torch.equal(fit_picture("Test", picture, SIZE), picture.movedim(-1, 1) * 2 - 1)


def test_a_very_large_picture_goes_in():
    picture = torch.full((1, 8000, 2000, 1), 0.25)
    assert torch.allclose(fit_picture("Test", picture, SIZE), torch.full((1, 3, 64, 64), -0.5), atol=1e-5)


def test_crop_keeps_the_middle_and_squash_everything():
    picture = torch.zeros(1, 64, 128, 3)
    picture[:, :, 32:96] = 1.0
    assert (fit_picture("Test", picture, SIZE, "center") == 1).all()
    squashed = fit_picture("Test", picture, SIZE, "squash")
    assert squashed[..., 2].max() < -0.9 and squashed[..., 32].min() > 0.9
    assert (fit_picture("Test", picture.movedim(1, 2), SIZE, "center") == 1).all()


def test_alpha_shows_white_grey_is_repeated_and_wild_values_are_cut():
    clear = torch.zeros(1, 64, 64, 4)
    assert (fit_picture("Test", clear, SIZE) == 1).all()
    grey = fit_picture("Test", image(64, 64, 1), SIZE)
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert fit_picture("Test", image(64, 64) * 9 - 4, SIZE).abs().max() <= 1
    assert fit_picture("Test", image(64, 64).half(), SIZE).dtype == torch.float32


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.zeros(64, 64, 3), r"Test: image must be \(B, H, W, C\) with 1, 3 or 4 channels .* got \(64, 64, 3\)"),
        (torch.zeros(1, 64, 64, 2), r"got \(1, 64, 64, 2\)"),
        (torch.zeros(1, 0, 64, 3), r"no side of 0, got \(1, 0, 64, 3\)"),
        (torch.full((1, 64, 64, 3), float("nan")), "Test: the image holds NaN"),
        ("a.png", "got str"),
        (torch.full((1, 64, 64, 3), 90, dtype=torch.uint8), "Test: image must hold numbers in 0..1, got uint8"),
    ],
)
def test_what_is_no_picture_is_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        fit_picture("Test", bad, SIZE)


def test_an_unknown_crop_is_refused():
    with pytest.raises(ValueError, match="Test: crop 'middle' is unknown; choose one of center, squash"):
        fit_picture("Test", image(8, 8), SIZE, "middle")


@pytest.mark.parametrize("crop", ["center", "squash"])
@pytest.mark.parametrize("size", [(120, 200), (60, 100), (240, 400), (40, 67)])
def test_a_mask_is_cropped_as_its_image_whatever_its_size(size, crop):
    """The left half is repainted: at 64 px the border must lie where the image's own does."""
    mask, picture = torch.zeros(1, *size), torch.zeros(1, 120, 200, 3)
    mask[:, :, : size[1] // 2], picture[:, :, :100] = 1.0, 1.0
    fitted = fit_mask("Test", mask, (120, 200), SIZE, crop)
    shown = (fit_picture("Test", picture, SIZE, crop) + 1) / 2
    assert fitted.shape == (1, 1, 64, 64)
    assert (fitted - shown[:, :1]).abs().mean() < 0.02
    assert (fitted[..., :28] == 1).all() and (fitted[..., 36:] == 0).all()  # kept is exactly 0, repainted exactly 1


def test_a_mask_of_another_aspect_is_refused_with_both_sizes():
    mask = torch.ones(1, 64, 64)
    with pytest.raises(ValueError, match=r"the mask is 64 x 64 pixels, the image 200 x 120: .* from the same picture"):
        fit_mask("Test", mask, (120, 200), SIZE)
    with pytest.raises(ValueError, match="it is empty, as Load Image gives it for a picture without alpha: draw one"):
        fit_mask("Test", mask * 0, (120, 200), SIZE)


def test_an_empty_mask_warns_and_a_broken_one_is_refused():
    with pytest.warns(UserWarning, match="the mask is empty, so nothing is repainted; 1 "):
        assert not fit_mask("Test", torch.zeros(32, 32), (32, 32), SIZE).any()
    with pytest.raises(ValueError, match="the mask holds NaN"):
        fit_mask("Test", torch.full((1, 8, 8), float("nan")), (8, 8), SIZE)
    with pytest.raises(ValueError, match=r"mask must be \(B, H, W\) with no side of 0, got \(1, 1, 8, 8\)"):
        fit_mask("Test", torch.ones(1, 1, 8, 8), (8, 8), SIZE)


def test_pasting_restores_what_is_kept_to_the_bit():
    known, mask = torch.rand(1, 3, 8, 8), torch.zeros(2, 1, 8, 8)
    mask[1, :, :4] = 0.5
    x = torch.rand(2, 3, 8, 8)
    pasted = Picture(known, mask).paste(x)
    assert torch.equal(pasted[0], known[0]) and torch.equal(pasted[1, :, 4:], known[0, :, 4:])
    assert torch.equal(pasted[1, :, :4], x[1, :, :4]) and Picture(known).paste(x) is x


def test_resizing_is_float32_and_exact_when_nothing_changes():
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(resize_bicubic(x, 8), x)
    large = resize_bicubic(x.to(torch.bfloat16), 32)
    assert large.dtype == torch.float32 and large.shape == (2, 3, 32, 32)
    assert torch.allclose(resize_bicubic(torch.full((1, 3, 20, 12), 0.3), 8), torch.full((1, 3, 8, 8), 0.3), atol=1e-6)


def test_the_middle_of_a_wider_picture_is_cut_out_in_the_runs_aspect():
    picture = torch.rand(1, 90, 200, 3)
    wide = fit_picture("Test", picture, (60, 120), "center")
    assert torch.allclose(wide, resize_bicubic(picture[:, :, 10:190].movedim(-1, 1) * 2 - 1, (60, 120)).clamp(-1, 1))
    tall = fit_picture("Test", picture, (120, 60), "center")
    middle = picture[:, :, 77:122].movedim(-1, 1) * 2 - 1
    assert torch.allclose(tall, resize_bicubic(middle, (120, 60)).clamp(-1, 1)) and tall.shape == (1, 3, 120, 60)
    mask = torch.zeros(1, 90, 200)
    mask[:, :, :100] = 1
    fitted = fit_mask("Test", mask, (90, 200), (60, 120))
    assert (fitted[..., :60] == 1).all() and (fitted[..., 60:] == 0).all()


def test_a_mixed_paste_follows_the_masks_grey():
    known, x = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    mask = torch.tensor([[[[0.0, 0.25], [0.75, 1.0]]]])
    assert torch.equal(Picture(known, mask).paste(x, mix=True)[0, 0], mask[0, 0])
    assert torch.equal(Picture(known, mask).paste(x)[0, 0], torch.tensor([[0.0, 1.0], [1.0, 1.0]]))


class OnMps(torch.Tensor):
    """Numbers on the CPU that say they lie on a GPU of Apple's."""

    device = torch.device("mps")


def test_mps_is_asked_for_no_operation_that_it_lacks():
    """Neither antialiased resizing nor means over areas of broken pixels, for which others give nearly the same."""
    lines = torch.linspace(0, 6, 96)
    x = (lines[:, None].sin() + lines.cos()).expand(1, 3, 96, 96).contiguous()
    operations = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            operations.append(str(function))
            return function(*args, **(kwargs or {}))

    for resize in (resize_for_gradient, thin_for_gradient):
        for size in ((28, 28), (48, 28)):
            expected, on_mps = resize(x, size), x.as_subclass(OnMps).requires_grad_()
            with Record():
                found = resize(on_mps, size)
                (gradient,) = torch.autograd.grad(found.sum(), on_mps)
            assert (found.as_subclass(torch.Tensor) - expected).abs().max() < 0.05  # of 4
            assert (gradient != 0).all()
    assert any("upsample_bilinear2d" in each for each in operations)
    assert not [each for each in operations if "_aa" in each or "adaptive" in each]
