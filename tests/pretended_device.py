"""An accelerator of N bytes that is not there: tensors on it compute as the CPU does, mixing them with others is an
error, and what does not fit raises what a GPU's allocator raises.

    with PretendedDevice(10_000) as device:
        x = torch.ones(3, device=device.device)     # 12 bytes
        device.used, device.peak, device.copied     # bytes: there now, at most, copied to it so far
"""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map_only

DEVICE = torch.device("lazy")  # a type that every PyTorch knows and none that is installed has kernels for
_CROSSES = (torch.ops.aten._to_copy, torch.ops.aten.copy_, torch.ops.aten.to)  # the last under inference mode


class _OnDevice(torch.Tensor):
    """A tensor of the pretended device: a shell around one of the CPU."""

    @staticmethod
    def __new__(cls, inner):
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=DEVICE, **layout)

    def __init__(self, inner):
        self.inner = inner

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} of a tensor on the pretended device, outside of it")


class PretendedDevice(TorchDispatchMode):
    """See above. capacity: bytes."""

    device = DEVICE

    def __init__(self, capacity):
        super().__init__()
        self.capacity, self.used, self.peak, self.copied = capacity, 0, 0, 0
        self._held = {}  # address of a storage: [tensors, bytes]

    @property
    def free(self):
        """Bytes."""
        return self.capacity - self.used

    def __enter__(self):
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) then copies as everything else does
        return super().__enter__()

    def __exit__(self, *error):
        torch._C._set_only_lift_cpu_tensors(False)
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [each for each in tree_iter((args, kwargs)) if isinstance(each, torch.Tensor)]
        here = [each for each in tensors if isinstance(each, _OnDevice)]
        target = kwargs.get("device")
        there = bool(here) if target is None else torch.device(target).type == DEVICE.type
        if func is torch.ops.aten.copy_.default:
            there = isinstance(args[0], _OnDevice)
        if not here and not there:
            return func(*args, **kwargs)
        others = [each for each in tensors if not isinstance(each, _OnDevice)]
        if func.overloadpacket not in _CROSSES and any(each.ndim for each in others):
            raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got some of the CPU")
        if there:
            self.copied += sum(each.nbytes for each in others)
        plain = {**kwargs, **({} if target is None else {"device": "cpu"})}
        inner_args, inner_kwargs = tree_map_only(_OnDevice, lambda x: x.inner, (args, plain))
        out = func(*inner_args, **inner_kwargs)
        if not there:
            return out
        out = tree_map_only(torch.Tensor, self._shell, out)
        return return_and_correct_aliasing(func, args, kwargs, out) if func._schema.is_mutable else out

    def _shell(self, inner):
        address, size = inner.untyped_storage().data_ptr(), inner.untyped_storage().nbytes()
        held = self._held.setdefault(address, [0, size])
        if held[0] == 0:
            if self.used + size > self.capacity:
                del self._held[address]
                raise torch.OutOfMemoryError(f"out of memory: tried to allocate {size} bytes, {self.free} free")
            self.used += size
            self.peak = max(self.peak, self.used)
        held[0] += 1
        shell = _OnDevice(inner)
        weakref.finalize(shell, self._dropped, address)
        return shell

    def _dropped(self, address):
        held = self._held[address]
        held[0] -= 1
        if held[0] == 0:
            self.used -= held[1]
            del self._held[address]
