"""Pickles that cost more than they have bytes, or run something, as files for a reader to refuse."""

import io
import pickle
import struct
import zipfile
import zlib

PROTOCOL = b"\x80\x02"
ORDERED = b"ccollections\nOrderedDict\n"


def archive(pickled, records=(("x/data/0", bytes(16)),), compress=zipfile.ZIP_STORED, script=False):
    """A zip archive as torch.save and torch.jit.save write it, around this pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compress) as found:
        found.writestr("x/data.pkl", pickled)
        for name, content in records:
            found.writestr(name, content)
        if script:
            found.writestr("x/constants.pkl", pickle.dumps((), 2))
    return file.getvalue()


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"\x8a\x08" + value.to_bytes(8, "little", signed=True)


def storage(count=4, kind="FloatStorage", key="0"):
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"


def sizes(*values):
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(shape=(4,), stride=(1,), offset=0, count=4, **options):
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage(count, **options)
        + number(offset)
        + sizes(*shape)
        + sizes(*stride)
        + b"\x89"
        + ORDERED
        + b")RtR"
    )


def table(*values):
    """A pickle of a table with these values under the names w0, w1, ..."""
    items = b"".join(text(f"w{index}") + value for index, value in enumerate(values))
    return PROTOCOL + b"}(" + items + b"u."


def module(*attributes):
    """An object of a TorchScript program with these (name, value)."""
    state = b"}(" + b"".join(text(name) + value for name, value in attributes) + b"u"
    return b"c__torch__.m\nModule\n)\x81" + state + b"b"


def doubled(times):
    """A tuple of two of a tuple of two of ...: hashed, or walked, it takes 2 ** times steps."""
    return b"K\x01" + b"q\x00" + b"".join(b"h\x00h\x00\x86q\x00" for _ in range(times))


def shared(times):
    """An object that holds the next one twice, and so on: walked, it takes 2 ** times steps."""
    inner = module(("w", tensor())) + b"q\x00"
    return inner + b"".join(b"0" + module(("a", b"h\x00"), ("b", b"h\x00")) + b"q\x00" for _ in range(times))


def attack():
    return b"cos\nsystem\n" + b"(" + text("true") + b"tR"


def directory(records):
    """An archive whose directory lists so many records, in few bytes each."""
    local = b"PK\x03\x04" + bytes(26)
    entry = b"PK\x01\x02" + bytes(24) + b"\x01\x00" + bytes(16) + b"a"
    size = records * len(entry)
    end = b"PK\x05\x06" + bytes(4) + struct.pack("<HHIIH", 0xFFFE, 0xFFFE, size, len(local), 0)
    return local + entry * records + end


def legacy(value, keys):
    """What torch.save wrote before zip archives: these two of its five pickles."""
    before = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(each, 2) for each in before) + value + keys


def kept(*values):
    """Values put in places 0, 1, ... of the memo."""
    return b"".join(value + b"q" + bytes([place]) + b"0" for place, value in enumerate(values))


LONG = "a" * 3_000_000
HOSTILE = {
    "a call of 100,000 arguments, again and again": archive(
        PROTOCOL + kept(b"cx\nf\n", b"(" + b"K\x01" * 100_000 + b"t") + b"h\x00h\x01R0" * 90_000 + b"N."
    ),
    "a storage of 100,000 parts, again and again": archive(
        PROTOCOL + kept(storage()[:-2] + b"N" * 100_000 + b"t") + b"h\x00Q0" * 100_000 + b"N."
    ),
    "two equal names of 3 MB, again and again": archive(
        PROTOCOL + kept(text(LONG), text(LONG)) + b"}" + b"h\x00K\x01sh\x01K\x01s" * 80_000 + b"."
    ),
    "a class's name of 3 MB, again and again": archive(
        b"\x80\x04" + kept(text("torch.nn"), text(LONG)) + b"h\x00h\x01\x930" * 120_000 + b"N."
    ),
    "a number of 3 MB as a name, again and again": archive(
        PROTOCOL
        + kept(b"\x8b" + struct.pack("<I", 3_000_000) + b"\xfe" * 3_000_000)
        + b"}"
        + b"h\x00Ns" * 150_000
        + b"."
    ),
    "a tensor named by an object of 2**60 parts": archive(PROTOCOL + b"}" + shared(60) + tensor() + b"s."),
    "the key of a storage takes 2**60 steps": legacy(table(tensor()), PROTOCOL + b"]" + doubled(60) + b"a."),
    "five pickles of 8 MB together": legacy(*[PROTOCOL + b"]" + b"]0" * 240_000 + b"."] * 2),
    "names 40 deep of 400 letters": archive(
        PROTOCOL
        + kept(text("a" * 400), module())
        + module(*[(f"x{index}", module()) for index in range(12_000)])
        + b"q\x02"
        + b"".join(b"0" + module() + b"}h\x00h\x02sbq\x02" for _ in range(40))
        + b".",
        script=True,
    ),
    "a place in the memo that is a table of 34 GB": archive(PROTOCOL + b"}r\xff\xff\xff\x7f."),
    "the same in TorchScript": archive(PROTOCOL + module() + b"r\xff\xff\xff\x7f.", script=True),
    "the same before zip archives": PROTOCOL + b"}r\xff\xff\xff\x7f.",
    "a length of 2**62 bytes": archive(b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b"."),
    "a text of 4 GB": archive(PROTOCOL + b"X\xff\xff\xff\xff."),
    "80 MB of instructions, deflated": archive(PROTOCOL + b"]0" * 40_000_000 + b".", compress=zipfile.ZIP_DEFLATED),
    "8 MB of instructions": archive(PROTOCOL + b"]0" * 4_000_000 + b"."),
    "8 MB of instructions before zip archives": PROTOCOL + b"]0" * 4_000_000 + b".",
    "5 MB of names": archive(PROTOCOL + ORDERED * 200_000 + b"."),
    "8 MB of open lists": archive(PROTOCOL + b"(" * 8_000_000 + b"."),
    "a key that takes 2**60 steps to hash": archive(PROTOCOL + b"}" + doubled(60) + b"K\x01s."),
    "the same in a set": archive(b"\x80\x04\x8f(" + doubled(60) + b"\x90."),
    "the same before zip archives, hashed": PROTOCOL + b"}" + doubled(60) + b"K\x01s.",
    "a table filled again and again": archive(
        PROTOCOL + b"](" + b"K\x01K\x01\x86" * 90_000 + b"eq\x00" + (ORDERED + b"h\x00\x85R0") * 50_000 + b"."
    ),
    "a walk of 2**60 steps": archive(PROTOCOL + shared(60) + b".", script=True),
    "objects nested 100,000 deep": archive(
        PROTOCOL + module(("w", tensor())) + b"".join(b"q\x000" + module(("a", b"h\x00")) for _ in range(9_000)) + b".",
        script=True,
    ),
    "an object that holds itself": archive(
        PROTOCOL + b"c__torch__.m\nM\n)\x81q\x00}" + text("a") + b"h\x00sb.", script=True
    ),
    "a shape of 10**18 numbers from one": archive(table(tensor((10**9, 10**9), (0, 0), count=1))),
    "a shape of 2**36 numbers from four": archive(table(tensor((2**18, 2**18), (0, 0)))),
    "a storage of 2**40 numbers": archive(table(tensor((2**40,), (1,), count=2**40))),
    "the same before zip archives, of no file's size": table(tensor((2**40,), (1,), count=2**40)),
    "a tensor behind its storage's end": archive(table(tensor((4,), (1,), offset=10**6))),
    "a storage that is not there": archive(table(tensor(key="../../0"))),
    "a negative count": archive(table(tensor((4,), (1,), count=-1))),
    "code": archive(table(attack())),
    "code before zip archives": table(attack()),
    "code beside tensors": archive(table(tensor(), attack())),
    "a program that is code": archive(PROTOCOL + attack() + b".", script=True),
    "an archive of 2,000,000 records": directory(2_000_000),
    "numbers that are deflated": archive(
        table(tensor((2**26,), (1,), count=2**26)), (("x/data/0", bytes(2**28)),), zipfile.ZIP_DEFLATED
    ),
    "a number that is none": archive(PROTOCOL + b"I1e9\n."),
    "nothing": archive(b""),
    "half a pickle": archive(table(tensor())[:-40]),
    "a compressed stream": zlib.compress(table(tensor())),
}
SOUND = {
    "a table of tensors": archive(table(tensor(), tensor((2, 2), (2, 1)), tensor((), ()))),
    "a program with tensors": archive(
        PROTOCOL + module(("a", tensor()), ("b", module(("c", tensor())))) + b".", script=True
    ),
}
