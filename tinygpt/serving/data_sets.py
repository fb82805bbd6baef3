"""Requests about prepared tokens: what is there, their statistics, and single documents."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tinygpt import config
from tinygpt.corpus import inspection
from tinygpt.corpus import inspection_view as view
from tinygpt.corpus.preparation import CONFIG
from tinygpt.corpus.prepared import Prepared
from tinygpt.corpus.shards import SplitInfo, read_sealed
from tinygpt.errors import UserError
from tinygpt.interfaces import SPLITS, Split
from tinygpt.registry import classes
from tinygpt.serving.errors import ApiError
from tinygpt.serving.folders import Outputs
from tinygpt.serving.services import Services, query, whole_number

INSPECTED = 16  # sets whose numbers are kept
OPEN = 2  # sets that stay open; opening one reads it once, to check it
MOST_DOCUMENTS = 50  # of an answer
MOST_TOKENS = 1000  # of a document


def routes(services: Services) -> list[Route]:
    """The routes about data."""
    made = _DataSets(services)
    return [
        Route("/api/data", made.list_sets),
        Route("/api/data/inspect", made.inspect),
        Route("/api/data/documents", made.documents),
    ]


class _DataSets:
    def __init__(self, services: Services) -> None:
        self.services = services
        self.cache = Outputs(Path(services.cache_dir).expanduser())
        self._lock = asyncio.Lock()  # one set is read at a time; who waits holds no thread
        self._opened: OrderedDict[str, Prepared] = OrderedDict()
        self._inspected: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def list_sets(self, request: Request) -> Response:
        users: dict[str, list[str]] = {}
        for run in self.services.watcher.runs():
            prepared = str((run.record.run.get("data") or {}).get("prepared"))
            users.setdefault(os.path.realpath(prepared), []).append(run.id)
        sets = []
        for path in sorted(self.cache.path.glob("*/*/manifest.json")):
            folder = path.parent
            manifest = read_sealed(path) if self.cache.file(folder, "manifest.json") else None
            if manifest is None:
                continue
            splits = {split: SplitInfo.from_dict(manifest["splits"][split]) for split in SPLITS}
            sets.append(
                {
                    "id": f"{folder.parent.name}/{folder.name}",
                    "dataset": folder.parent.name,
                    "tokenizer": folder.name.rpartition("-")[0],
                    "vocab_size": manifest.get("vocab_size"),
                    "bytes_on_disk": sum(f.lstat().st_size for f in folder.iterdir()),
                    "splits": {split: _numbers(info) for split, info in splits.items()},
                    "used_by": users.get(str(folder.resolve()), [])[:100],
                }
            )
        return JSONResponse({"sets": sets})

    async def inspect(self, request: Request) -> Response:
        set_id = query(request, "id")
        async with self._lock:
            if set_id not in self._inspected:
                prepared = await run_in_threadpool(self._open, set_id)
                numbers = await run_in_threadpool(_inspected, prepared)
                self._inspected[set_id] = {"id": set_id, **numbers}
                if len(self._inspected) > INSPECTED:
                    self._inspected.popitem(last=False)
            return JSONResponse(self._inspected[set_id])

    async def documents(self, request: Request) -> Response:
        set_id, split = query(request, "id"), query(request, "split", "train")
        if split not in SPLITS:
            raise ApiError(400, f"split must be one of {', '.join(SPLITS)}", param="split")
        start = whole_number(request, "from", 0, low=0, high=10**15)
        n = whole_number(request, "n", 10, low=1, high=MOST_DOCUMENTS)
        async with self._lock:
            prepared = await run_in_threadpool(self._open, set_id)
        documents = inspection.Documents(prepared, split)
        total = documents.info.documents
        items = await run_in_threadpool(
            lambda: [_document(documents, i) for i in range(start, min(start + n, total))]
        )
        content = {"id": set_id, "split": split, "documents": total, "from": start, "items": items}
        return JSONResponse(content)

    def _open(self, set_id: str) -> Prepared:
        if set_id in self._opened:
            self._opened.move_to_end(set_id)
            return self._opened[set_id]
        folder = self.cache.folder(set_id)
        if folder is None or not self.cache.file(folder, "manifest.json"):
            raise ApiError(404, f"there is no prepared set {set_id[:200]!r}", param="id")
        content = config.read(folder / CONFIG)["tokenizer"]
        kind = classes("tokenizer").get(str(content.get("name")))
        if kind is None:
            raise UserError(
                f"tokenizer={content.get('name')} is not known here; type components=[MODULE] "
                "with the module that has it"
            )
        tokenizer = kind(**content).load(folder / "tokenizer")
        self._opened[set_id] = Prepared(folder, tokenizer)
        if len(self._opened) > OPEN:
            self._opened.popitem(last=False)
        return self._opened[set_id]


def _numbers(info: SplitInfo) -> dict[str, Any]:
    return {
        "documents": info.documents,
        "tokens": info.tokens,
        "utf8_bytes": info.utf8_bytes,
        "bytes_per_token": info.utf8_bytes / info.tokens if info.tokens else None,
        "dropped": dict(info.dropped),
        "floor_bpb": info.floor_bpb,
    }


def _inspected(prepared: Prepared) -> dict[str, Any]:
    """The numbers of `tinygpt.data`."""
    counts = inspection.count_ids(prepared)
    lengths: dict[Split, dict[str, Any]] = {}
    points = np.zeros(0, np.int64)
    for split in SPLITS:
        documents = inspection.Documents(prepared, split)
        characters, code_points = inspection.characters_of(documents)
        points = code_points if split == "train" else points
        lengths[split] = {
            "tokens": _percentiles(documents.lengths()),
            "characters": _percentiles(characters),
        }
    rarest = sorted(np.flatnonzero(points).tolist(), key=lambda point: (points[point], point))
    longest = inspection.longest_tokens(prepared.tokenizer, counts, view.LISTED)
    texts = inspection.pieces(prepared.tokenizer, longest)
    return {
        "lengths": lengths,
        "vocabulary": {
            "size": counts.size,
            "used": int((counts > 0).sum()),
            "seldom": int((counts < view.SELDOM).sum()),
            "never": int((counts == 0).sum()),
            "line": view.vocabulary_line(counts),
        },
        "longest": [[text, int(counts[i])] for text, i in zip(texts, longest, strict=True)],
        "rarest": [
            [inspection.visible(chr(point)), int(points[point])] for point in rarest[: view.LISTED]
        ],
        "copies": prepared.overlap.lines(),
    }


def _percentiles(lengths: inspection.Integers) -> Mapping[str, int]:
    values = np.percentile(lengths, list(view.PERCENTILES.values()), method="nearest")
    return dict(zip(view.PERCENTILES, map(int, values), strict=True))


def _document(documents: inspection.Documents, index: int) -> dict[str, Any]:
    ids = documents.beginning(index, MOST_TOKENS)
    n_tokens = documents.n_tokens(index)
    texts = inspection.pieces(documents.tokenizer, ids)
    return {
        "index": index,
        "n_tokens": n_tokens,
        "tokens": [[text, token] for text, token in zip(texts, ids, strict=True)],
        "more": n_tokens > len(ids),
    }
