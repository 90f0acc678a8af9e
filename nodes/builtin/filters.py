"""Pictures blurred and sharpened by a Gaussian, as the editor's own nodes do it."""


class ImageBlur:
    """A Gaussian blur. sigma counts in radii: at 1 the kernel's edge is one standard deviation from its middle."""

    TITLE = "Image Blur"
    CATEGORY = "image/postprocessing"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        radius = ("INT", {"default": 1, "min": 1, "max": 31, "step": 1})
        sigma = ("FLOAT", {"default": 1.0, "min": 0.1, "max": 10.0, "step": 0.1})
        return {"required": {"image": ("IMAGE",), "blur_radius": radius, "sigma": sigma}}

    def execute(self, image, blur_radius, sigma):
        return (_filtered(image, _gaussian(blur_radius, sigma), "blur_radius"),)


class ImageSharpen:
    """An unsharp mask: 10 alpha times what a Gaussian blur takes away is added."""

    TITLE = "Image Sharpen"
    CATEGORY = "image/postprocessing"
    FUNCTION = "execute"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "image": ("IMAGE",),
                "sharpen_radius": ("INT", {"default": 1, "min": 1, "max": 31, "step": 1}),
                "sigma": ("FLOAT", {"default": 1.0, "min": 0.1, "max": 10.0, "step": 0.01}),
                "alpha": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 5.0, "step": 0.01}),
            }
        }

    def execute(self, image, sharpen_radius, sigma, alpha):
        kernel = -(10 * alpha) * _gaussian(sharpen_radius, sigma)
        middle = kernel[sharpen_radius, sharpen_radius]
        kernel[sharpen_radius, sharpen_radius] = middle - kernel.sum() + 1.0  # so that it sums to 1
        return (_filtered(image, kernel, "sharpen_radius").clamp(0, 1),)


def _gaussian(radius: int, sigma: float):
    """A kernel (2 radius + 1, 2 radius + 1) that sums to 1, over the square from -1 to 1."""
    import torch

    line = torch.linspace(-1, 1, 2 * radius + 1)
    distance = torch.sqrt(line[:, None] * line[:, None] + line * line)
    kernel = torch.exp(-(distance * distance) / (2.0 * sigma * sigma))
    return kernel / kernel.sum()


def _filtered(image, kernel, name: str):
    """Pictures (B, H, W, C) under a kernel; beyond their edges they are mirrored."""
    import torch.nn.functional as F

    radius, (height, width, channels) = kernel.shape[0] // 2, image.shape[1:]
    if radius >= min(height, width):
        raise ValueError(
            f"{name}={radius} is too large for pictures of {width} x {height}; give at most {min(height, width) - 1}"
        )
    pixels = F.pad(image.movedim(-1, 1), (radius,) * 4, mode="reflect")
    kernels = kernel.to(image).expand(channels, 1, *kernel.shape)
    return F.conv2d(pixels, kernels, groups=channels).movedim(1, -1)
