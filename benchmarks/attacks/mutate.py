"""Create corrupt files: random byte changes, forged archives, mutated JSON and tensors."""

import hashlib
import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**400, 0.5, -1.0, 1e308),
    *(float("nan"), float("inf"), "", "x", "ü\u2028\ud800", "a" * 5000, [], {}, [None], {"a": 1}),
)


class Code:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def corrupt(content: bytes, draw: random.Random) -> bytes:
    """Change some bytes: flip a bit, cut, repeat, insert, or write typical lengths."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 5, 20))):
        at = draw.randrange(len(changed) or 1)
        if draw.random() < 0.5:  # headers are at the start, directories at the end
            at = draw.choice((at % 400, max(0, len(changed) - 1 - at % 400)))
        size = draw.choice((1, 2, 4, 8, 64))
        match draw.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << draw.randrange(8)
            case 1:
                del changed[at:]
            case 2:
                del changed[at : at + size]
            case 3:
                changed[at:at] = changed[at : at + size]
            case 4:
                changed[at:at] = draw.randbytes(size)
            case _:
                number = draw.choice((0, 1, 255, 2**31 - 1, 2**32 - 1, 2**62, 2**64 - 1))
                changed[at : at + size] = struct.pack("<Q", number)[:size]
    return bytes(changed)


def npy(shape: str, dtype: str, body: bytes, version: bytes = b"\x01\x00") -> bytes:
    """Return an .npy with an arbitrary header."""
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(header) % 65536) + header + body


def forge_npy(draw: random.Random, target: Path) -> bytes:
    """Return an .npy with an invalid shape, type or header, or one that would run code."""
    if draw.random() < 0.15:
        stream = io.BytesIO()
        np.save(stream, np.array([Code(target)], dtype=object), allow_pickle=True)
        return stream.getvalue()
    shapes = ("()", "(3,)", "(-1, 6)", "(2, 3)", f"({10**15}, 6)", "(0, 2, 3)", "None", "(1.5,)")
    types = ("'<f4'", "'<f8'", "'|O'", "'<M8[s]'", "'<U9'", "'|V0'", "[('a', '<f4')]", "'>f2'", "5")
    body = bytes(draw.choice((0, 4, 24, 96)))
    version = draw.choice((b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09"))
    nested = "(" * 3000 + ")" * 3000
    shape = draw.choice((*shapes, nested))
    return npy(shape, draw.choice(types), body, version)


def forge_zip(content: bytes, draw: random.Random, target: Path) -> bytes:
    """Return an .npz with a foreign, missing, forged, encrypted or oddly compressed member."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    kind = draw.randrange(6)
    name = draw.choice(list(members))
    if kind == 0:
        members[draw.choice(("../x.npy", "/x.npy", "notes.txt", "x", ".npy", "ü.npy"))] = b"foreign"
    elif kind == 1:
        del members[name]
    elif kind == 2:
        members[name] = forge_npy(draw, target)
    stream = io.BytesIO()
    packing = zipfile.ZIP_DEFLATED if kind == 3 else zipfile.ZIP_STORED
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for member, body in members.items():
            archive.writestr(member, body if kind != 3 else body + bytes(2**24))
    packed = bytearray(stream.getvalue())
    if kind in (4, 5):  # set the encryption bit, or an unknown compression method
        at = packed.rfind(b"PK\x01\x02")
        first = 8 if kind == 4 else 10
        value = b"\x01\x00" if kind == 4 else struct.pack("<H", draw.choice((1, 12, 14, 93, 99)))
        packed[at + first : at + first + 2] = value
        packed[first - 2 : first] = value
    return bytes(packed)


ODD_CELLS = (
    *("", " ", "nan", "-inf", "1e999", "1_0", "0x10", "1,5", "x", "é", "\u0661", "=1+1", "a;b"),
    *('"', '""', '"a', 'a"b', '"a\nb"', "\x00", "\x1b[2J", "\r", "\ufeff", "\u2028", "9" * 5000),
    *("x" * 200_000, '"' + "y\n" * 90_000),
)


def forge_csv(content: bytes, draw: random.Random, target: Path) -> bytes:
    """Return a table with odd cells, rows of other lengths, other separators or encodings."""
    rows = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(draw.choice((1, 1, 2, 5))):
        row = draw.choice((rows[0], draw.choice(rows)))
        at = draw.randrange(len(row) or 1)
        match draw.randrange(6):
            case 0:
                del row[at:]
            case 1:
                row[at:at] = row[at : at + 1] * draw.choice((1, 2, 3000))
            case 2:
                rows.remove(row) if len(rows) > 1 else None
            case _:
                row[at : at + 1] = [draw.choice(ODD_CELLS)]
    text = draw.choice(("\n", "\n", "\r\n", "\r", "\n\n")).join(
        draw.choice((",", ",", ",", ";", "\t")).join(row) for row in rows
    )
    encoding = draw.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-7"))
    return text.encode(encoding, "surrogatepass")


def forge_png(content: bytes, draw: random.Random, target: Path) -> bytes:
    """Return a PNG of valid CRCs with a false header, or with foreign or missing parts."""
    parts: list[tuple[bytes, bytes]] = []
    at = 8
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        parts.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    place = draw.randrange(len(parts))
    match draw.randrange(5):
        case 0 | 1:
            width, height, *rest = struct.unpack(">IIBBBBB", parts[0][1])
            sizes = 0, 1, width, height, 2**12 + 1, 2**16, 2**31 - 1, 2**32 - 1
            rest = [draw.choice((n, n, draw.choice((0, 1, 2, 3, 4, 6, 8, 16, 255)))) for n in rest]
            header = struct.pack(">IIBBBBB", draw.choice(sizes), draw.choice(sizes), *rest)
            parts[0] = (b"IHDR", header)
        case 2:
            kinds = b"zTXt", b"iTXt", b"iCCP", b"tEXt", b"PLTE", b"tRNS", b"eXIf", b"acTL"
            bomb = zlib.compress(bytes(2**24))
            bodies = b"", b"a\0\0" + bomb, b"a\0\1\0\0\0" + bomb, b"\0" * 9, draw.randbytes(768)
            part = draw.choice(kinds), draw.choice(bodies)
            parts[place:place] = [part] * draw.choice((1, 1, 300))
        case 3:
            del parts[place]
        case _:
            kind, body = parts[place]
            bodies = (
                corrupt(body, draw),
                body[::-1],
                zlib.compress(bytes(draw.choice((0, 9, 2**24)))),
            )
            parts[place] = (kind, draw.choice(bodies))
    forged = content[:8]
    for kind, body in parts:
        crc = struct.pack(">I", zlib.crc32(kind + body))
        forged += struct.pack(">I", len(body)) + kind + body + crc
    return forged


def mutate_plain(
    plain: Any, draw: random.Random, replace: Callable[[Any], Any] | None = None
) -> Any:
    """Change one element of nested plain data: replace, add or delete it."""
    if isinstance(plain, (dict, list, tuple)) and len(plain) and draw.random() < 0.9:
        items = dict(plain) if isinstance(plain, dict) else dict(enumerate(plain))
        name = draw.choice(list(items))
        match draw.randrange(12):
            case 0:
                del items[name]
            case 1:
                items["more" if isinstance(plain, dict) else len(plain)] = draw.choice(ODD_VALUES)
            case _:
                items[name] = mutate_plain(items[name], draw, replace)
        return items if isinstance(plain, dict) else type(plain)(items.values())
    return replace(plain) if replace and draw.random() < 0.7 else draw.choice(ODD_VALUES)


def mutate_json(content: bytes, draw: random.Random) -> bytes:
    """Change one element of a JSON file."""
    if draw.random() < 0.02:
        return b"[" * 100_000
    text = json.dumps(mutate_plain(json.loads(content), draw))
    return text.encode("utf-8", "surrogatepass")


def forge_code(content: bytes, draw: random.Random, target: Path) -> bytes:
    """Return a configuration whose rule or network refers to code that would write a file."""
    evil = target.with_name("evil.py")
    evil.write_text(f"open({str(target)!r}, 'w')\n\n\ndef make(*args):\n    return None\n", "utf-8")
    references = {
        f"evil.py:make:beta={draw.random()}": "evil.py",
        f"{evil}:make": str(evil),
        "evil:make": "evil",
        f"subprocess:getoutput:cmd=touch {target}": "subprocess",
        f"os:mkdir:path={target}": "os",
        f"pathlib:Path.touch:self={target}": "pathlib",
        f"shutil:copy:src={evil},dst={target}": "shutil",
    }
    config = json.loads(content)
    names = draw.choice((("rule",), ("model",), ("rule", "model")))
    config |= {name: draw.choice(list(references)) for name in names}
    digest = hashlib.sha256(evil.read_bytes()).hexdigest()
    recorded = [[place, draw.choice((digest, "", "0" * 64))] for place in references.values()]
    config["sources"] = draw.choice((recorded, recorded, recorded[:1], [], *ODD_VALUES))
    config["source_folder"] = draw.choice(("", str(target.parent), *ODD_VALUES))
    if draw.random() < 0.2:
        del config["sources"]
    return json.dumps(config).encode("utf-8", "surrogatepass")


def mutate_safetensors(content: bytes, draw: random.Random) -> bytes:
    """Change one element of the header of a .safetensors file."""
    size = int.from_bytes(content[:8], "little")
    header = mutate_json(content[8 : 8 + size], draw)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]


def mutate_tensor(draw: random.Random) -> Callable[[Any], Any]:
    """Return a function that changes a tensor's shape, type, strides or layout."""

    def change(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return draw.choice((*ODD_VALUES, torch.zeros(2), value))
        return draw.choice(
            (
                value.flatten()[:1],
                value.flatten()[:1].expand(value.shape) if value.ndim and value.numel() else value,
                value.to(draw.choice((torch.float64, torch.uint8, torch.complex64, torch.bool))),
                torch.zeros(draw.choice(((), (0,), (10**6,), (1, 1, 1))), dtype=value.dtype),
                value.float().to_sparse() if value.ndim else value,
                value.to("meta"),
                value.T if value.ndim == 2 else value[None],
                torch.full_like(value, draw.choice((0, 255, 1))),
                [*value.flatten()[:3].tolist()],
                torch.nn.Parameter(value.float()),
            )
        )

    return change


def forge_checkpoint(payload: bytes, draw: random.Random, target: Path) -> bytes:
    """Return a checkpoint's payload with one element of its state changed, or with code."""
    match draw.randrange(12):
        case 0:
            return corrupt(payload, draw)
        case 1:
            return pickle.dumps({"config": Code(target)})
        case _:
            state = torch.load(io.BytesIO(payload), weights_only=True)
            part = draw.choice((None, "state", "optimizer", "model", "rng", "config"))
            if part is None:
                state = mutate_plain(state, draw, mutate_tensor(draw))
            elif part == "config" and draw.random() < 0.3:
                state["extra"] = Code(target)
            else:
                state[part] = mutate_plain(state[part], draw, mutate_tensor(draw))
            stream = io.BytesIO()
            torch.save(state, stream)
            return stream.getvalue()
