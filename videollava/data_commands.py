"""The commands `videollava data`, on sources and their index, and `videollava remote`: where both are shared.

Each imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from videollava.command import Arguments, Command, add_params, file_to_write
from videollava.errors import InputError

__all__ = ["DATA", "MIRROR", "REMOTE"]

SHOWN = 20  # records of a medium


def _nothing(parser: argparse.ArgumentParser) -> None:
    pass


def _run_join(arguments: Arguments) -> None:
    from videollava.data.prepare.listed import asked_sources, benchmark_sources, join_params
    from videollava.params import load_params

    params = load_params()
    told = "now reads" if join_params(Path.cwd(), params) else "reads"
    print(f"dvc.yaml: stage index {told} the shards of {', '.join(params.sources) or 'no source'}")
    if named := benchmark_sources(params):
        print(f"dvc.yaml: stage evaluate {told} what was fetched of {', '.join(named)}")
    if asked := asked_sources(params):
        print(f"dvc.yaml: stage align {told} what was fetched of {', '.join(asked)}")


def _add_add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of letters, digits, _ and -")
    parser.add_argument(
        "target",
        metavar="URL|FOLDER",
        nargs="+",
        help="s3://, https://, hf://datasets/ORG/NAME, a file or a folder",
    )
    parser.add_argument("--format", default="", help="of its records; default: as the first of them look")
    parser.add_argument("--use", choices=("align", "pretrain", "finetune", "benchmark"), default="finetune")
    parser.add_argument("--annotations", default="", help="their file, or its address, where it is not found")
    parser.add_argument("--licence", default="", help="under which it may be used, for the data card")
    parser.add_argument("--files", action="append", default=[], metavar="PATTERN", help="of a hub repository")
    parser.add_argument("--endpoint", default="", metavar="URL", help="of a store of S3 other than AWS")
    parser.add_argument("--region", default="")
    parser.add_argument("--profile", default="", help="of your AWS configuration")
    parser.add_argument("--unsigned", action="store_true", help="ask the store without credentials")


def _run_add(arguments: Arguments) -> None:
    from videollava.data.adding.add import add_source, entry_of

    names = (
        *("format", "use", "annotations", "files", "licence"),
        *("endpoint", "region", "profile", "unsigned"),
    )
    given = {name: getattr(arguments, name) for name in names}
    entry = entry_of(arguments.target[0], Path.cwd(), **given)
    if len(arguments.target) > 1:
        if entry["kind"] != "archive":
            raise InputError(
                f"{arguments.target[0]}: one folder or repository a source; several only of addresses"
            )
        entry["urls"] = [entry_of(one, Path.cwd())["urls"][0] for one in arguments.target]
    added = add_source(Path.cwd(), arguments.name, entry)
    for line in added.sight.lines():
        print(f"{arguments.name}: {line}")
    print(
        f"{arguments.name}: in params.yaml, dvc.yaml and locks/{arguments.name}.json (commit all three); then "
        f"`videollava fetch {arguments.name}`, `videollava check {arguments.name}` and `make retrain`"
    )


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of a source")


def _run_remove(arguments: Arguments) -> None:
    from videollava.data.adding.add import remove_source

    name = arguments.name
    portion = f" (index.sources.{name}, what of it was tested and trained on, too)"
    had_portion = remove_source(Path.cwd(), name)
    print(
        f"{name}: taken out of params.yaml{portion if had_portion else ''}, dvc.yaml and locks/; what was fetched "
        f"stays in data/raw/{name} and data/shards/{name}"
    )


def _add_lock(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    parser.add_argument(
        "--forget-sums", action="store_true", help="take its files as they are, whatever they were"
    )


def _run_lock(arguments: Arguments) -> None:
    from videollava.data.adding.add import lock_again

    found = lock_again(Path.cwd(), arguments.name, forget=arguments.forget_sums)
    lacking = sum(not file.sha256 for file in found.lock.files)
    sums = f"; {lacking} sums are noted by `videollava fetch {arguments.name}`" if lacking else ""
    print(
        f"locks/{arguments.name}.json: {len(found.lock.files)} files, {found.in_words() or 'as before'}{sums}"
    )


def _add_card(parser: argparse.ArgumentParser) -> None:
    add_params(parser)
    parser.add_argument("--json", action="store_true")


def _run_card(arguments: Arguments) -> None:
    import json

    from videollava.data.versions.card import describe_card, read_card
    from videollava.params import load_params

    card = read_card(Path.cwd(), load_params(arguments.params, arguments.set))
    print(json.dumps(card, indent=1, ensure_ascii=False) if arguments.json else describe_card(card))


def _add_diff(parser: argparse.ArgumentParser) -> None:
    what = (
        "a revision of git (a tag such as model/videollava/3), a folder with an index, or . for the one here"
    )
    parser.add_argument("old", metavar="A", help=what)
    parser.add_argument("new", metavar="B", nargs="?", default=".", help="likewise; default: the one here")
    parser.add_argument("--out", type=file_to_write, default=Path("runs/data-diff.html"), help="the page")
    parser.add_argument("--json", action="store_true")


def _run_diff(arguments: Arguments) -> None:
    import json
    import tempfile

    from videollava.data.versions.diff import KINDS, compare
    from videollava.data.versions.indexes import open_index
    from videollava.evaluate.report_diff import write_diff

    with tempfile.TemporaryDirectory() as scratch:
        old, new = (open_index(Path.cwd(), name, Path(scratch)) for name in (arguments.old, arguments.new))
        diff = compare(old, new)
        page = write_diff(diff, arguments.out)
    if arguments.json:
        print(json.dumps({**diff.as_json(), "page": str(page)}, indent=1))
        return
    for name in sorted({*diff.records, *diff.media}):
        records = ", ".join(
            f"{diff.records[name][kind]:,} {kind}" for kind in KINDS if diff.records[name][kind]
        )
        media = ", ".join(f"{count:,} {kind}" for kind, count in sorted(diff.media[name].items()) if count)
        print(f"{name}: records {records or 'as before'}; media {media or 'as before'}")
    if diff.same:
        print("the same records about the same media, in the same splits")
    print(f"with pictures: {page}")


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("medium", metavar="FILE|SHA256", help="a picture or clip, or its SHA-256")


def _run_where(arguments: Arguments) -> int:
    from videollava.data.versions.seen import sum_of

    return 0 if _say_where(sum_of(arguments.medium)) else 1


def _say_where(sha256: str) -> bool:
    """Print what saw a medium; whether anything did."""
    import tempfile

    from videollava.data.versions.indexes import open_index
    from videollava.data.versions.seen import look_up

    workspace = Path.cwd()
    print(sha256)
    with tempfile.TemporaryDirectory() as scratch:
        seen = look_up(open_index(workspace, "", Path(scratch)), sha256)
        for split, source, key in seen.records[:SHOWN]:
            print(f"  {split}: record {key} of {source}")
        if len(seen.records) > SHOWN:
            print(f"  and {len(seen.records) - SHOWN:,} more: {dict(seen.splits)}")
        if seen.places and not seen.records:
            print(f"  in the shards of {', '.join(seen.places)}, in no record")
        if not seen.places:
            print("  not in data/index")
        trained = _say_versions(workspace, sha256, Path(scratch))
    return bool(seen.places or trained)


def _say_versions(workspace: Path, sha256: str, scratch: Path) -> bool:
    """Print which registered versions saw it; whether one did."""
    from videollava import registry
    from videollava.data.versions.indexes import Indexed, open_index
    from videollava.data.versions.seen import look_up_versions
    from videollava.params import load_params
    from videollava.tracking import read_lineage

    try:
        versions = registry.list_versions(workspace, load_params().tracking)
    except InputError as error:
        print(f"  registered versions: not known: {error}")
        return False
    here = read_lineage(workspace).data

    def open_data(data: str, tag: str) -> Indexed:
        return open_index(workspace, "" if data == here else tag, scratch)

    asked = [
        (version.reference, version.lineage.data, f"model/{version.name}/{version.number}")
        for version in versions
    ]
    found = look_up_versions(asked, sha256, open_data)
    for one in found:
        splits = ", ".join(f"{count:,} in {split}" for split, count in one.splits.items())
        if one.unknown:
            print(f"  {one.reference}: not known: {one.unknown}")
        elif one.splits:
            print(f"  {one.reference}: {'TRAINED ON IT' if one.trained_on else 'asked about it'} ({splits})")
    if not any(one.splits or one.unknown for one in found):
        print(f"  no registered version saw it ({len(found)} looked at)")
    if again := [one.reference for one in found if one.trained_on]:
        print(f"  to retrain once it is forgotten: {', '.join(again)}")
    return any(one.splits for one in found)


def _add_forget(parser: argparse.ArgumentParser) -> None:
    _add_where(parser)
    parser.add_argument("--because", required=True, metavar="REASON", help="kept beside it in the list")


def _run_forget(arguments: Arguments) -> None:
    from videollava.data.versions.seen import forget, sum_of

    sha256 = sum_of(arguments.medium)
    forget(Path.cwd(), sha256, arguments.because)
    print(
        f"locks/forgotten.txt: {sha256} (commit it): stage index leaves it out, with its records; `make retrain`"
    )
    _say_where(sha256)
    print(
        "its bytes stay in the source, in data/raw and data/shards, and in DVC's cache and remote, where nothing reads "
        "them: take it out of the source and `videollava data lock NAME` for shards without it"
    )


ACTIONS = {
    "add": Command(
        "look at a source and write it into params.yaml, its lock and dvc.yaml", _add_add, _run_add
    ),
    "remove": Command("take a source out of them", _add_name, _run_remove),
    "lock": Command("look at a source again and lock what is there now", _add_lock, _run_lock),
    "card": Command(
        "what the index holds: counts, licences, lengths, what was left out", _add_card, _run_card
    ),
    "diff": Command("what changed from one index to another, with pictures", _add_diff, _run_diff),
    "where": Command("which records, splits and versions saw a picture or clip", _add_where, _run_where),
    "forget": Command("leave a picture or clip out, whatever has it", _add_forget, _run_forget),
    "join": Command("have dvc.yaml's stage index read the sources of params.yaml", _nothing, _run_join),
}


def _add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, action in ACTIONS.items():
        action.add(actions.add_parser(name, help=action.about, description=action.about))


def _run(arguments: Arguments) -> int | None:
    return ACTIONS[arguments.action].run(arguments)


DATA = Command("sources and what became of them", _add, _run)


def _add_mirror(parser: argparse.ArgumentParser) -> None:
    _add_name(parser)
    parser.add_argument("target", metavar="URL|FOLDER", help="s3://BUCKET/PREFIX/, or a folder")
    parser.add_argument("--endpoint", default="", metavar="URL", help="of a store of S3 other than AWS")
    parser.add_argument("--region", default="")
    parser.add_argument("--profile", default="", help="of your AWS configuration")


def _run_mirror(arguments: Arguments) -> None:
    import yaml

    from videollava.data.acquire.declared import choose
    from videollava.data.acquire.fetch import fetch_source
    from videollava.data.acquire.located import RAW
    from videollava.data.acquire.mirror import mirror
    from videollava.data.acquire.s3_client import Access
    from videollava.params import load_params

    (source,) = choose(load_params(), arguments.name)
    lock = fetch_source(source, Path.cwd())
    if not lock.files:
        raise InputError(f"{arguments.name}: it is generated here: there is nothing to mirror")
    access = Access(arguments.endpoint, arguments.region, arguments.profile)
    done = mirror(source, lock, Path.cwd() / RAW / arguments.name, arguments.target, access)
    print(
        f"{arguments.target}: {done.sent} files sent, {done.kept} were there; to read it from there, in params.yaml:"
    )
    flow = yaml.safe_dump(done.entry, default_flow_style=True, sort_keys=False, width=10**6).strip()
    print(f"  {arguments.name}: {flow}")


MIRROR = Command("copy a source with its sums to a store of one's own", _add_mirror, _run_mirror)


def _add_remote(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="set")
    told = "share data and models there, once it can be written to"
    setting = actions.add_parser("set", help=told, description=told)
    setting.add_argument("url", metavar="URL", help="s3://bucket/prefix, or a folder")
    setting.add_argument("--endpoint", default="", metavar="URL", help="of a server other than AWS")
    setting.add_argument("--profile", default="", help="of your AWS configuration")
    setting.add_argument("--region", default="")


def _run_remote(arguments: Arguments) -> int:
    from videollava.data.versions.remote import KEYS, read_remote, set_remote

    if arguments.action == "set":
        found = set_remote(Path.cwd(), arguments.url, arguments.endpoint, arguments.profile, arguments.region)
        print(f"{found.describe()}: can be written to; commit .dvc/config (git commit .dvc/config)")
        if found.url.startswith("s3://"):
            print(KEYS.format(name=found.name))
        return 0
    remote = read_remote(Path.cwd())
    if remote is None:
        print("no remote: data and models stay on this machine; `videollava remote set s3://bucket/prefix`")
        return 1
    print(remote.describe())
    return 0


REMOTE = Command("where data and models are shared, or set it", _add_remote, _run_remote)
