"""Published unCLIP models by the names they have in Load unCLIP: of which repositories each is made. No torch.

`unclip pull NAME` fetches what stands here, and errors about a missing part name that command. Repositories are those
of their makers, or mirrors where a maker took his away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Part:
    """A repository that a published model needs, whole or in part.

    stages: what it brings, by stage name. folder: its folder in a model folder, where it is not the repository's last
    part. also_in: another folder that has the same and more. networks: only these of its folders are needed; () stands
    for all that its pipeline needs. licence: the hub's short name, for a card that names none; None where nobody knows.
    """

    name: str
    repository: str
    licence: str | None
    stages: tuple[str, ...]
    folder: str = ""
    also_in: str = ""
    networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", self.folder or self.repository.rpartition("/")[2])


@dataclass(frozen=True)
class Published:
    """A model that can be pulled by its name. about: what it is for, in a line."""

    name: str
    about: str
    parts: tuple[Part, ...]
    experimental: bool = False  # nobody here has seen its files

    @property
    def command(self) -> str:
        """The command that gets it, or what is missing of it."""
        return f"unclip pull {self.name}"


_KARLO_LICENCE = "creativeml-openrail-m"
_KARLO = Part("karlo", "kakaobrain/karlo-v1-alpha", _KARLO_LICENCE, ("clip", "prior", "decoder", "upsampler_256"))
_KARLO_PRIOR = Part(
    "prior",
    "kakaobrain/karlo-v1-alpha",
    _KARLO_LICENCE,
    ("clip", "prior"),
    folder="karlo-v1-alpha-prior",
    also_in="karlo-v1-alpha",
    networks=("prior", "text_encoder"),
)
_PRIOR_22 = Part("prior", "kandinsky-community/kandinsky-2-2-prior", "apache-2.0", ("clip", "prior"))
_PRIOR_21 = Part("prior", "kandinsky-community/kandinsky-2-1-prior", "apache-2.0", ("clip", "prior"))


def _kandinsky(repository: str) -> Part:
    return Part("decoder", f"kandinsky-community/{repository}", "apache-2.0", ("decoder",))


# Stability AI took its repositories away in November 2025; these are the community's copies.
def _stable_unclip(name: str) -> Part:
    return Part("decoder", f"sd2-community/{name}", "openrail++", ("clip", "decoder"))


PUBLISHED: dict[str, Published] = {
    found.name: found
    for found in (
        Published(
            "kandinsky-2-2",
            "text to picture at 512 to 1024 px, variations, mixing",
            (_PRIOR_22, _kandinsky("kandinsky-2-2-decoder")),
        ),
        Published(
            "kandinsky-2-2-inpaint",
            "repaints a part of a picture",
            (_PRIOR_22, _kandinsky("kandinsky-2-2-decoder-inpaint")),
        ),
        Published(
            "kandinsky-2-2-controlnet-depth",
            "follows a depth map",
            (_PRIOR_22, _kandinsky("kandinsky-2-2-controlnet-depth")),
        ),
        Published(
            "kandinsky-2-1",
            "text to picture in many languages",
            (_PRIOR_21, _kandinsky("kandinsky-2-1")),
        ),
        Published(
            "kandinsky-2-1-inpaint",
            "repaints a part of a picture, text in many languages",
            (_PRIOR_21, _kandinsky("kandinsky-2-1-inpaint")),
        ),
        Published(
            "stable-diffusion-2-1-unclip",
            "variations of a picture at 768 px (ViT-H); it has no prior",
            (_stable_unclip("stable-diffusion-2-1-unclip"),),
        ),
        Published(
            "stable-diffusion-2-1-unclip-small",
            "variations at 768 px (ViT-L), and text to picture by Karlo's prior",
            (_stable_unclip("stable-diffusion-2-1-unclip-small"), _KARLO_PRIOR),
        ),
        Published("karlo-v1-alpha", "text to picture at 256 px, close to the paper", (_KARLO,)),
        Published(
            "karlo-v1-alpha-image-variations",
            "variations at 256 px; it has no prior",
            (
                Part(
                    "karlo",
                    "kakaobrain/karlo-v1-alpha-image-variations",
                    _KARLO_LICENCE,
                    ("clip", "decoder", "upsampler_256"),
                ),
            ),
        ),
        Published(
            "eclipse-karlo",
            "Karlo with a small prior of one pass",
            (Part("prior", "ECLIPSE-Community/ECLIPSE_Karlo_Prior", None, ("prior",)), _KARLO),
            experimental=True,
        ),
        Published(
            "eclipse-kandinsky-2-2",
            "Kandinsky 2.2 with a small prior of one pass",
            (
                Part("prior", "ECLIPSE-Community/ECLIPSE_KandinskyV22_Prior", None, ("prior",)),
                replace(_PRIOR_22, name="clip"),
                _kandinsky("kandinsky-2-2-decoder"),
            ),
            experimental=True,
        ),
    )
}
