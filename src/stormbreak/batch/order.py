"""`--ordered`: OUTPUT in the order of INPUT."""

from array import array

from stormbreak.batch.durable import replacing
from stormbreak.batch.files import BatchPaths
from stormbreak.batch.lines import Index, placed


def order_output(files: BatchPaths, rows: Index) -> None:
    """Sort OUTPUT into input order: 8 bytes of memory per row, the file replaced in one step.

    Call it with the lock held and the journal closed, whose file would otherwise be the one replaced.
    """
    begins = array("Q", bytes(8 * len(rows)))  # offset + 1; 0 where there is no line
    for index, entry in placed(files.output, rows):
        begins[index] = entry.offset + 1
    with files.output.open("rb") as source, replacing(files.output) as target:
        for begin in begins:
            if begin:
                source.seek(begin - 1)
                target.write(source.readline())
