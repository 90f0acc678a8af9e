"""What a Hugging Face repository holds for us: chosen from its list of files before any weights travel.

`plan_pull` asks the hub, `hub_files.pull` downloads. huggingface_hub is imported inside functions: it comes with
open_clip, but nothing else needs it.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from ..config import STAGES

# diffusers pipelines we read, with the sub-folders whose weights each must have.
_DECODING = ("decoder", "text_proj", "text_encoder", "super_res_first", "super_res_last")
_KANDINSKY_PRIOR = ("prior", "text_encoder", "image_encoder")
_MULTILINGUAL = ("KandinskyPipeline", "KandinskyImg2ImgPipeline", "KandinskyInpaintPipeline")
_STABLE_UNCLIP = ("unet", "vae", "text_encoder", "image_normalizer")
PIPELINES = {
    "UnCLIPPipeline": ("prior", *_DECODING),
    "UnCLIPImageVariationPipeline": (*_DECODING, "image_encoder"),
    **dict.fromkeys(
        ("KandinskyV22PriorPipeline", "KandinskyV22PriorEmb2EmbPipeline", "KandinskyPriorPipeline"), _KANDINSKY_PRIOR
    ),
    **dict.fromkeys(
        (
            "KandinskyV22Pipeline",
            "KandinskyV22Img2ImgPipeline",
            "KandinskyV22InpaintPipeline",
            "KandinskyV22ControlnetPipeline",
            "KandinskyV22ControlnetImg2ImgPipeline",
        ),
        ("unet", "movq"),
    ),
    **dict.fromkeys(_MULTILINGUAL, ("unet", "movq", "text_encoder")),
    "StableUnCLIPImg2ImgPipeline": (*_STABLE_UNCLIP, "image_encoder"),
    "StableUnCLIPPipeline": (*_STABLE_UNCLIP, "prior", "prior_text_encoder"),
}
PRIOR = "PriorTransformer"  # a repository that is one network: ECLIPSE's prior
_SETTINGS = (
    *(f"{name}scheduler" for name in ("", "prior_", "decoder_", "super_res_", "ddpm_", "ddim_", "image_noising_")),
    *("feature_extractor", "image_processor", "tokenizer", "prior_tokenizer"),
)
# XLM-R's words are in tokenizer.json or in sentencepiece's model; CLIP's come with open_clip.
_SETTING = r"(?:(?:scheduler_|preprocessor_|tokenizer_)?config|special_tokens_map)\.json"
_WORDS = r"tokenizer/(?:tokenizer\.json|sentencepiece\.bpe\.model)"
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)"
    r"(?:\.(?P<variant>[a-z]\w*))?(?:-\d{5}-of-(?P<shards>\d{5}))?(?:\.(?P<late>[a-z]\w*))?\.(?P<kind>safetensors|bin)"
)
_INDEX = re.compile(r"\w+\.(?P<kind>safetensors|bin)\.index(?:\.(?P<variant>\w+))?\.json")
CARDS = ("README.md", "LICENSE", "LICENSE.md", "LICENSE.txt")  # the licence travels with the weights
_TABLE = re.compile(r"[\w-]+\.(pca|analytic)\.safetensors")
_COMMIT, _DIGEST = re.compile(r"[0-9a-f]{40}"), re.compile(r"(?:[0-9a-f]{40}(?:[0-9a-f]{24})?)?")
_MAX_INDEX = 1_000_000  # bytes of a model_index.json or a config.json
_MAX_LISTING = 16 << 20  # bytes of what the hub says of a repository
_MAX_FILE = 1 << 45  # bytes
_PREFIX = re.compile(r"^(?:https?://)?(?:huggingface\.co|hf\.co)/")

LICENCES = {
    "creativeml-openrail-m": "CreativeML OpenRAIL-M",
    "openrail++": "CreativeML Open RAIL++-M",
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
}
_KARLO = re.compile(r"kakaobrain/karlo-")  # the licence of these is known, should a card not say it


class HubError(RuntimeError):
    """The hub could not be reached, would not give a file, or gave a wrong one; the message says what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. digest: SHA-256 of a large file (64 hex digits), else git's SHA-1 (40)."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True)
class PullPlan:
    """What to download. revision: as asked for. commit: what it stands for now. kind: the pipeline, PRIOR or "native".
    name: the folder's name once it is installed."""

    repo: str
    revision: str
    commit: str
    kind: str
    files: tuple[RemoteFile, ...]
    licence: str | None
    name: str

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def plan_pull(
    repo: str,
    revision: str | None = None,
    dtype: str | None = None,
    *,
    networks: Sequence[str] = (),
    name: str | None = None,
    licence: str | None = None,
) -> PullPlan:
    """Choose the files of `repo` ("owner/name", or its address) that a stack needs.

    Safetensors are preferred over pickles and full precision over variants, but for dtype "fp16", which takes an fp16
    variant where there is one. networks: only these folders, with their settings. name: the folder to be, if not the
    repository's last part. licence: the hub's short name, for a card that says none. Raises ValueError for an unknown
    repository or revision and for another kind of model, HubError if the hub cannot be asked.
    """
    from huggingface_hub import ModelInfo

    repo = _PREFIX.sub("", repo.strip()).strip("/")
    if not _is_repository(repo):
        raise ValueError(f"pull: {repo!r} is no repository; give owner/name, such as kakaobrain/karlo-v1-alpha")
    revision = revision or "main"
    with explained(repo, revision):
        try:
            info = ModelInfo(**json.loads(_listing(repo, revision)))
            commit, files = _checked(info.sha, _COMMIT), dict(map(_remote_file, info.siblings or ()))
        except (TypeError, KeyError, AttributeError, RecursionError, ValueError, AssertionError) as error:
            reason = " ".join(ascii(str(error)).split())[:200]
            raise HubError(
                f"{repo}: the answer is not one of a Hugging Face hub ({reason}); check HF_ENDPOINT"
            ) from None
    kind, chosen = choose_files(repo, files, _description(repo, commit, files), dtype, networks)
    named = info.card_data.get("license") if info.card_data else None
    if not isinstance(named, str):
        named = licence or ("creativeml-openrail-m" if _KARLO.match(repo) else None)
    return PullPlan(repo, revision, commit, kind, chosen, licence_title(named), name or repo.rsplit("/", 1)[-1])


def _is_repository(repo: str) -> bool:
    """Whether it is an owner and a name as the hub has them: both become parts of an address."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        return False
    return "/" in repo


def _listing(repo: str, revision: str) -> bytes:
    """What the hub says of a repository and its files. Read in blocks, for an answer need not have an end."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session, hf_raise_for_status

    url = f"{constants.ENDPOINT}/api/models/{repo}/revision/{quote(revision, safe='')}?blobs=true"
    session, asked = get_session(), {"headers": headers(), "timeout": constants.HF_HUB_DOWNLOAD_TIMEOUT}
    # The client below huggingface_hub differs by version.
    new = hasattr(session, "stream")
    with session.stream("GET", url, **asked) if new else session.get(url, stream=True, **asked) as answer:
        hf_raise_for_status(answer)
        found = bytearray()
        for block in answer.iter_bytes() if new else answer.iter_content(1 << 16):
            found += block
            if len(found) > _MAX_LISTING:
                raise HubError(f"{repo}: its list of files has no end; check HF_ENDPOINT, or pull another copy")
    return bytes(found)


def _remote_file(entry: object) -> tuple[str, RemoteFile]:
    """A file of the hub's list. Commit and digests become names on the disk, so they are nothing but digits. Raises
    ValueError."""
    digest = entry.lfs["sha256"] if entry.lfs else entry.blob_id
    size = entry.size or 0
    if type(size) is not int or not 0 <= size <= _MAX_FILE:
        raise ValueError(f"size {size!r} of {entry.rfilename!r}")
    return entry.rfilename, RemoteFile(entry.rfilename, size, _checked(digest or "", _DIGEST))


def _checked(text: object, form: re.Pattern[str]) -> str:
    if not isinstance(text, str) or not form.fullmatch(text):
        raise ValueError(f"{text!r} is no hash")
    return text


class Bounded:
    """A file that takes no more bytes than the hub's list says, whatever the hub sends, and tells its position after
    each write. Raises HubError."""

    def __init__(
        self, file: io.IOBase, listed: RemoteFile, repo: str, tick: Callable[[int], None] | None = None
    ) -> None:
        self._file, self._listed, self._repo, self._tick = file, listed, repo, tick

    def write(self, data: bytes) -> int:
        if self._file.tell() + len(data) > self._listed.size:
            raise HubError(
                f"{self._repo}: more comes of {self._listed.path} than the {self._listed.size} bytes that are listed; "
                "run the same command again, or pull another copy"
            )
        written = self._file.write(data)
        if self._tick:
            self._tick(self._file.tell())
        return written

    def __getattr__(self, name: str):
        return getattr(self._file, name)


def licence_title(licence: str | None) -> str | None:
    """A licence's name as people write it, from the hub's short one."""
    return LICENCES.get(licence, licence)


def choose_files(
    repo: str,
    files: Mapping[str, RemoteFile],
    description: Mapping[str, object] | None,
    dtype: str | None = None,
    networks: Sequence[str] = (),
) -> tuple[str, tuple[RemoteFile, ...]]:
    """(kind, files to download). description: the repository's model_index.json, else its config.json, if it has one.
    networks: only these folders, with their settings.

    Raises ValueError for what is no unCLIP, or lacks weights that one needs.
    """
    cards = [files[name] for name in CARDS if name in files]
    kind = (description or {}).get("_class_name")
    if kind == PRIOR and "model_index.json" not in files:
        return PRIOR, (*cards, files["config.json"], *_weights(repo, "", files, dtype))
    if "model_index.json" not in files:
        stages = [file for stage in STAGES if (file := files.get(f"{stage}.safetensors"))]
        if not any(file.path.split(".")[0] in ("prior", "decoder") for file in stages):
            raise ValueError(
                f"{repo}: not an unCLIP model: it has neither a model_index.json nor files such as "
                f"decoder.safetensors; nothing was downloaded"
            )
        return "native", (*cards, *stages, *(files[name] for name in files if _TABLE.fullmatch(name)))
    if kind not in PIPELINES:
        raise ValueError(
            f"{repo}: its model_index.json says {kind}, but an unCLIP is one of {', '.join(PIPELINES)}; "
            "nothing was downloaded"
        )
    parts = tuple(networks) or PIPELINES[kind]
    if missing := [name for name in parts if not any(path.startswith(f"{name}/") for path in files)]:
        raise ValueError(f"{repo}: incomplete, it has no folder {', '.join(missing)}; pull another revision or copy")
    # An index would promise the networks that are left out.
    chosen = [*([] if networks else [files["model_index.json"]]), *cards]
    settings = [folder for folder in _SETTINGS if not networks or _serves(folder, networks)]
    for folder in (*parts, *settings):
        chosen += [files[path] for path in sorted(files) if re.fullmatch(rf"{folder}/{_SETTING}", path)]
    if "text_encoder" in parts and kind in _MULTILINGUAL:
        chosen += [files[path] for path in sorted(files) if re.fullmatch(_WORDS, path)]
    for folder in parts:
        chosen += _weights(repo, folder, files, dtype)
    return kind, tuple(chosen)


def _serves(folder: str, networks: Sequence[str]) -> bool:
    """Whether one of `networks` reads the settings in `folder`."""
    network = {"tokenizer": "text_encoder", "feature_extractor": "image_encoder"}.get(folder)
    return (network or folder.removesuffix("_scheduler")) in networks


def _weights(repo: str, folder: str, files: Mapping[str, RemoteFile], dtype: str | None) -> list[RemoteFile]:
    """The best complete set of the weights in a folder ("": the repository itself), with its index if in shards."""
    sets: dict[tuple[str, str, int], list[RemoteFile]] = {}
    indexes: dict[tuple[str, str], RemoteFile] = {}
    for path, file in sorted(files.items()):
        inside, _, name = path.rpartition("/")
        if inside != folder:
            continue
        if match := _WEIGHTS.fullmatch(name):
            variant = match["variant"] or match["late"] or ""
            sets.setdefault((match["kind"], variant, int(match["shards"] or 0)), []).append(file)
        elif match := _INDEX.fullmatch(name):
            indexes[match["kind"], match["variant"] or ""] = file

    def usable(key: tuple[str, str, int]) -> bool:
        kind, variant, shards = key
        return not shards or (len(sets[key]) == shards and (kind, variant) in indexes)

    def rank(key: tuple[str, str, int]) -> tuple:
        kind, variant, shards = key
        wanted = "fp16" if dtype == "fp16" else ""
        return kind != "safetensors", variant != wanted, variant != "", shards, variant

    complete = sorted(filter(usable, sets), key=rank)
    if not complete:
        where = f" in {folder}/" if folder else ""
        raise ValueError(f"{repo}: no complete weights (.safetensors or .bin){where}; pull another revision or copy")
    kind, variant, shards = best = complete[0]
    return [*([indexes[kind, variant]] if shards else []), *sets[best]]


def _description(repo: str, commit: str, files: Mapping[str, RemoteFile]) -> dict | None:
    """What the repository says that it is: its model_index.json, or the config.json of its only network."""
    from huggingface_hub.file_download import http_get

    file = files.get("model_index.json") or files.get("config.json")
    if file is None:
        return None
    if file.size > _MAX_INDEX:
        raise ValueError(f"{repo}: its {file.path} has {file.size} bytes, which none of a pipeline has")
    text = io.BytesIO()
    with explained(repo, commit), quiet_bars():
        bounded = Bounded(text, file, repo)
        http_get(file_url(repo, commit, file), bounded, headers=headers(), expected_size=file.size)
    try:
        found = json.loads(text.getvalue())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{repo}: its {file.path} is not a JSON object; nothing was downloaded")
    return found


def file_url(repo: str, commit: str, file: RemoteFile) -> str:
    """Where the hub serves a file."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repo, file.path, revision=commit)


def headers() -> dict[str, str]:
    """Request headers, with the user's token if there is one."""
    from huggingface_hub.utils import build_hf_headers

    return build_hf_headers(library_name="comfyui-unclip")


@contextlib.contextmanager
def quiet_bars() -> Iterator[None]:
    """No bars of huggingface_hub's own while the block runs: one of ours counts all files."""
    from huggingface_hub import utils

    if utils.are_progress_bars_disabled():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


@contextlib.contextmanager
def explained(repo: str, revision: str) -> Iterator[None]:
    """Turn what huggingface_hub and the network raise into one line that says what to do."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    login = "`hf auth login`, or a token in HF_TOKEN"
    try:
        yield
    except errors.OfflineModeIsEnabled:
        raise HubError(f"{repo}: HF_HUB_OFFLINE is set, so nothing can be downloaded; unset it") from None
    except errors.GatedRepoError:
        raise HubError(f"{repo}: gated; accept its terms at {hub}/{repo}, then log in ({login})") from None
    except errors.RepositoryNotFoundError:
        raise ValueError(
            f"{repo}: no such repository at {hub}; check the name, or log in if private ({login})"
        ) from None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{repo}: no revision {revision!r}; give --revision a branch, tag or commit it has") from None
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise HubError(f"{repo}: access refused ({status}) by {hub}; log in with {login}") from None
        raise HubError(f"{repo}: {hub} answered {status}; run the same command again later") from None
    except OSError as error:
        raise _os_error(repo, hub, error) from None
    except Exception as error:
        # The client below huggingface_hub differs by version, and so do its classes.
        if type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"):
            raise _unreachable(repo, hub, error) from None
        raise


def _os_error(repo: str, hub: str, error: OSError) -> Exception:
    if error.errno == errno.ENOSPC:
        return HubError(
            f"{repo}: the disk is full; free some space and run the same command again, it goes on from there"
        )
    if error.filename is not None and error.strerror:
        return HubError(f"{error.filename}: {error.strerror}; choose another folder with --to")
    return _unreachable(repo, hub, error)


def _unreachable(repo: str, hub: str, error: Exception) -> HubError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return HubError(
        f"{repo}: no connection to {hub}, or it broke off ({reason}); check the network and run the same command "
        "again, it goes on from there"
    )
