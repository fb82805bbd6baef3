"""Write one split of a source as shards: finished shards are kept, missing ones are made."""

from collections.abc import Callable, Iterator, Mapping
from itertools import count, islice
from pathlib import Path

from tinygpt.corpus.disk import Disk
from tinygpt.corpus.encoding import BATCH_BYTES, Encoder, Texts
from tinygpt.corpus.progress import Progress
from tinygpt.corpus.shards import (
    Shard,
    ShardWriter,
    SplitInfo,
    first_damage,
    read_sealed,
    write_sealed,
)
from tinygpt.errors import UserError
from tinygpt.interfaces import Split, TextSource

SHARD_BYTES = 64_000_000  # of text: an interruption loses at most this much work


class NoText(UserError):
    """A split has no document that is not empty."""

    def __init__(self, split: Split) -> None:
        super().__init__(f"the {split} split holds no text; give it some or choose another dataset")


class Sharding:
    """The work on one split in a folder."""

    def __init__(
        self,
        split: Split,
        source: TextSource,
        *,
        folder: Path,
        disk: Disk,
        say: Callable[[str], None],
    ) -> None:
        self.split, self.source, self.folder = split, source, folder
        self.disk, self.say = disk, say
        self._summary = folder / f"{split}.json"  # written when the whole split has been read

    def run(self, encoder: Encoder) -> SplitInfo:
        """Make the missing shards; raises NoText if the split has no text."""
        shards = self._finished()
        summary = read_sealed(self._summary)
        missing = set(range(summary["shards"])).difference(shards) if summary else None
        if missing or missing is None:
            self._write(encoder, shards, stop=max(missing) + 1 if missing else None)
        if not shards:
            raise NoText(self.split)
        if summary is None:
            summary = {
                "shards": len(shards),
                "entropy_bits": self.source.entropy_bits(self.split),
                "dropped": self.source.dropped(self.split),
            }
            write_sealed(self._summary, summary)
        info = SplitInfo(
            documents=sum(shard.documents for shard in shards.values()),
            tokens=sum(shard.tokens for shard in shards.values()),
            utf8_bytes=sum(shard.utf8_bytes for shard in shards.values()),
            entropy_bits=summary["entropy_bits"],
            dropped=summary["dropped"],
            shards=[shards[index] for index in range(len(shards))],
        )
        self.say(
            f"  {self.split}: {info.documents:,} documents, {info.tokens:,} tokens, "
            f"{info.utf8_bytes / 1e6:,.1f} MB of text"
        )
        return info

    def _finished(self) -> dict[int, Shard]:
        """The complete, undamaged shards; removes the record of any other."""
        shards = {}
        for path in sorted(self.folder.glob(f"{self.split}-*.json")):
            content = read_sealed(path)
            shard = Shard(**content) if content else None
            damaged = first_damage(self.folder, self.split, shard) if shard else path
            if shard and not damaged:
                shards[shard.index] = shard
            elif damaged:
                self.say(f"  {damaged.name} is damaged; its shard is made again")
                path.unlink()
        return shards

    def _write(self, encoder: Encoder, shards: dict[int, Shard], *, stop: int | None) -> None:
        """Make the shards below `stop` that are missing in `shards`, and add them to it."""
        writer = None
        n_documents = self.source.n_documents(self.split)
        try:
            with Progress(self.split, self.say, n_documents=n_documents) as progress:
                batches = _batches(
                    self.source.documents(self.split), dict(shards), progress, stop=stop
                )
                for texts, batch in encoder.encoded(batches):
                    if writer is None or writer.index != texts.shard:
                        if writer:
                            shards[writer.index] = writer.finish()
                        before = [shards[index] for index in range(texts.shard)]
                        writer = ShardWriter(self.folder, self.split, texts.shard, before=before)
                    disk_bytes = writer.add(
                        batch.tokens,
                        read=texts.read,
                        lengths=batch.lengths,
                        utf8_bytes=batch.utf8_bytes,
                        digests=batch.digests,
                    )
                    progress.add(texts.read, len(texts.utf8))
                    self.disk.measure(
                        documents=texts.read, utf8_bytes=len(texts.utf8), disk_bytes=disk_bytes
                    )
                if writer:
                    shards[writer.index] = writer.finish()
        except BaseException:
            if writer:
                writer.abandon()
            raise


def _batches(
    documents: Iterator[str],
    finished: Mapping[int, Shard],
    progress: Progress,
    *,
    stop: int | None,
) -> Iterator[Texts]:
    """Documents of the shards below `stop` that are not finished; empty ones are left out.

    The end of a shard depends on its documents alone.
    """
    for index in count() if stop is None else range(stop):
        if index in finished:
            shard = finished[index]
            if sum(1 for _ in islice(documents, shard.read)) < shard.read:
                raise UserError("the dataset gives fewer documents than it did before")
            progress.skip(shard.read, shard.utf8_bytes)
            continue
        shard_bytes = 0
        while shard_bytes < SHARD_BYTES:
            texts = _batch(index, documents)
            if texts is None:
                return
            shard_bytes += len(texts.utf8)
            yield texts


def _batch(shard: int, documents: Iterator[str]) -> Texts | None:
    """The next documents, about BATCH_BYTES of text; None at the end."""
    texts: list[str] = []
    read = size = 0
    for document in documents:
        read += 1
        if document:
            texts.append(document)
            size += len(document)
            if size >= BATCH_BYTES:
                break
    utf8 = "".join(texts).encode("utf-8", "surrogatepass")
    return Texts(shard, read, texts, utf8) if texts else None
