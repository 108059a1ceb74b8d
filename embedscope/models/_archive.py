"""A `.pt2` archive, reduced to the parts that torch.export.save writes for one program and checked, before torch opens it.

What torch gets is an archive made anew from what was checked here: another reader of zip files, or another choice between two
members of one name, cannot find anything else in it. Example inputs and extra files are left out, as nothing here needs them.
"""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

from embedscope.models._graph import UnsafeProgramError, cleaned

if TYPE_CHECKING:
    from pathlib import Path

# Members below the archive's own folder, as torch 2.8 and later write them.
_GRAPH = "models/model.json"
_PAYLOADS = {"data/weights/": re.compile(r"weight_\d{1,9}"), "data/constants/": re.compile(r"(tensor|constant)_\d{1,9}")}
_CONFIG = re.compile(r"data/(weights|constants)/model_\w+\.json")
_KEPT = re.compile(
    r"archive_format|archive_version|byteorder|version|\.data/version|data/(weights|constants)/model\.pt"
    r"|data/weights/weight_\d{1,9}|data/constants/(tensor|constant)_\d{1,9}"
)
_LEFT_OUT = re.compile(r"\.data/serialization_id|extra/[\w. \-/]*|\.format_version|\.storage_alignment")
_EXAMPLES = "data/sample_inputs/model.pt"

# The layout of torch 2.6 and 2.7, which later ones read too.
_OLD_GRAPH = "serialized_exported_program.json"
_OLD_KEPT = re.compile(r"version|serialized_(state_dict|constants)\.pt")
_OLD_LEFT_OUT = re.compile(r"extra_files/[\w. \-/]*")
_OLD_EXAMPLES = "serialized_example_inputs.pt"

_DEVICES = ("cpu", "cuda", "mps", "xpu")


def clean_archive(path: Path) -> io.BytesIO:
    """Read a `.pt2` file and write what torch needs of it into memory; raises UnsafeProgramError for anything else in it.

    Raises ValueError, and what zipfile and json raise, for a file that is not an exported program.
    """
    clean = io.BytesIO()
    with zipfile.ZipFile(path) as archive:
        members = _members(archive, path.stat().st_size)
        with zipfile.ZipFile(clean, "w") as target:
            if _OLD_GRAPH in members:
                _copy_old(archive, members, target)
            else:
                _copy(archive, members, target)
    clean.seek(0)
    return clean


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Index an archive by the names below its own folder."""
    found = [member for member in archive.infolist() if not member.is_dir()]
    old = any(member.filename == _OLD_GRAPH for member in found)
    folder = "" if old else found[0].filename.partition("/")[0] + "/" if found else ""
    members = {member.filename.removeprefix(folder): member for member in found}
    if not old and _GRAPH not in members:
        raise ValueError("it contains no program named 'model'")
    if len({name.lower() for name in members}) < len(found):
        raise UnsafeProgramError("has two members with the same name")
    if any(member.compress_type != zipfile.ZIP_STORED for member in found) or sum(m.file_size for m in found) > size:
        raise UnsafeProgramError("is compressed or has overlapping members")
    strange = [
        member.filename
        for name, member in members.items()
        if not member.filename.startswith(folder) or not _is_known(name, old) or ".." in name
    ]
    if strange:
        raise UnsafeProgramError(f"holds {', '.join(map(repr, strange[:3]))}, which do not belong in an exported program")
    return members


def _is_known(name: str, old: bool) -> bool:
    if old:
        return name in (_OLD_GRAPH, _OLD_EXAMPLES) or bool(_OLD_KEPT.fullmatch(name) or _OLD_LEFT_OUT.fullmatch(name))
    patterns = (_KEPT, _CONFIG, _LEFT_OUT)
    return name in (_GRAPH, _EXAMPLES) or any(pattern.fullmatch(name) for pattern in patterns)


def _copy_old(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], target: zipfile.ZipFile) -> None:
    for name, member in members.items():
        if _OLD_KEPT.fullmatch(name):
            _copy_member(archive, member, target, name)
    target.writestr(_OLD_GRAPH, json.dumps(cleaned(json.loads(archive.read(_OLD_GRAPH)))))
    target.writestr(_OLD_EXAMPLES, b"")


def _copy(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], target: zipfile.ZipFile) -> None:
    for name, member in members.items():
        if _KEPT.fullmatch(name):
            _copy_member(archive, member, target, f"program/{name}")
        elif found := _CONFIG.fullmatch(name):
            config = json.loads(archive.read(member))
            _check_payloads(config, f"data/{found[1]}/", members)
            target.writestr(f"program/{name}", json.dumps(config))
    target.writestr(f"program/{_GRAPH}", json.dumps(cleaned(json.loads(archive.read(members[_GRAPH])))))
    target.writestr(f"program/{_EXAMPLES}", b"")


def _copy_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: zipfile.ZipFile, name: str) -> None:
    with archive.open(member) as source, target.open(name, "w", force_zip64=True) as copy:
        shutil.copyfileobj(source, copy, 1 << 20)


def _check_payloads(config: Any, folder: str, members: dict[str, zipfile.ZipInfo]) -> None:
    """Check the list of tensors of a program: plain bytes that are there, and no pickled objects."""
    cleaned(config)
    for name, entry in config["config"].items():
        file, meta = entry["path_name"], entry["tensor_meta"]
        if entry["use_pickle"] is not False or meta is None or not _PAYLOADS[folder].fullmatch(file):
            raise UnsafeProgramError(f"holds {name[:60]} as a pickled object")
        if folder + file not in members:
            raise UnsafeProgramError(f"is missing the data of {name[:60]} ({folder}{file[:60]})")
        sizes = [size.get("as_int") for size in meta["sizes"]]
        if not all(type(size) is int and size >= 0 for size in sizes) or meta["device"]["type"] not in _DEVICES:
            raise UnsafeProgramError(f"declares an invalid size or device for {name[:60]}")
        if math.prod(sizes) and not members[folder + file].file_size:  # torch would make them zeros
            raise UnsafeProgramError(f"is missing the data of {name[:60]}; it was exported without weights")
