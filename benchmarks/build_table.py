"""What docs/benchmarks.md states of building: growth with the partitions, and what months cost.

A build costs so much a partition, a part and a level change, each times its number, so the mean
partition stands for all.
"""

from typing import NamedTuple

PRODUCTS, DAYS = 55, 100
BEATS_A_DAY, CHANGES_S = 21_600, 3_300
CORES = (1, 16, 128)
DAY_S = 86_400


class Cost(NamedTuple):
    """What a build of some partitions took, through Ray."""

    partitions: int
    wall_s: float
    cpu_s: float  # Of all processes together, Ray's included.
    driver_s: float  # Of the one process that hands out the tasks.


class Measured(NamedTuple):
    """Everything that the tables are computed from."""

    growth: list[Cost]  # From few partitions to many, of `small` changes each.
    small: int
    small_cpu_s: float  # Of one such partition without Ray.
    mean_changes: int
    mean_cpu_s: float  # Of the mean partition without Ray.
    mean_bytes: int  # Of its parts.
    cores: int  # That Ray had.
    start_s: float  # To start Ray and its workers and build one partition for the first time.


class Projection(NamedTuple):
    """What the whole history costs."""

    cores: int
    cpu_h: float
    wall_h: float
    read_mb_s: float  # That the storage has to give.


def of_one_more(few: Cost, many: Cost) -> Cost:
    """Return what each partition added costs."""
    more = many.partitions - few.partitions
    wall_s, cpu_s, driver_s = ((b - a) / more for a, b in zip(few[1:], many[1:], strict=True))
    return Cost(1, wall_s, cpu_s, driver_s)


def fixed(costs: list[Cost]) -> Cost:
    """Return what a build of no partition would cost: the line through the first and the last."""
    first, one = costs[0], of_one_more(costs[0], costs[-1])
    n = first.partitions
    return Cost(0, *(max(a - n * b, 0.0) for a, b in zip(first[1:], one[1:], strict=True)))


def projected(measured: Measured, cores: int) -> Projection:
    """Return what PRODUCTS x DAYS cost on so many cores.

    Each partition costs what the mean one does, and what Ray adds to it. No build is faster than
    its driver hands out tasks.
    """
    partitions = PRODUCTS * DAYS
    one = of_one_more(measured.growth[0], measured.growth[-1])
    of_ray_s = max(one.cpu_s - measured.small_cpu_s, 0.0)
    cpu_s = partitions * (measured.mean_cpu_s + of_ray_s)
    wall_s = max(cpu_s / cores, partitions * one.driver_s) + fixed(measured.growth).wall_s
    read_mb_s = partitions * measured.mean_bytes / 1e6 / wall_s
    return Projection(cores, cpu_s / 3600, wall_s / 3600, read_mb_s)


def table_of(measured: Measured, where: str) -> str:
    """Return both tables as Markdown, and what they were computed from."""
    growth, one = measured.growth, of_one_more(measured.growth[0], measured.growth[-1])
    still = fixed(growth)
    lines = [
        where,
        "",
        f"Growth, partitions of {measured.small:,} level changes, on {measured.cores} cores:",
        "",
        "| partitions | wall, s | CPU, s | CPU of a partition, s | wall of a partition, s |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    for cost in growth:
        n = cost.partitions
        lines.append(
            f"| {n} | {cost.wall_s:.2f} | {cost.cpu_s:.2f} | {cost.cpu_s / n:.3f} | "
            f"{cost.wall_s / n:.3f} |"
        )
    beats, changes = PRODUCTS * DAYS * BEATS_A_DAY, PRODUCTS * DAYS * measured.mean_changes
    lines += [
        "",
        f"Each partition more costs {one.cpu_s:.3f} CPU-s with Ray, {measured.small_cpu_s:.3f} "
        f"without, and {1e3 * one.driver_s:.1f} ms of the driver. Ray's fixed share of a build is "
        f"{still.wall_s:.2f} s ({still.cpu_s:.2f} CPU-s); to start Ray and its workers and build "
        f"one partition takes {measured.start_s:.1f} s more, once.",
        "",
        f"Projected: {PRODUCTS} products x {DAYS} days, {beats / 1e6:.1f} million beats, "
        f"{changes / 1e9:.1f} billion level changes, at {measured.mean_cpu_s:.2f} CPU-s for the "
        f"mean partition of {measured.mean_changes:,} changes:",
        "",
        "| cores | CPU, hours | wall | storage must give, MB/s |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for cores in CORES:
        found = projected(measured, cores)
        lines.append(
            f"| {cores} | {found.cpu_h:.2f} | {_time(found.wall_h)} | {found.read_mb_s:,.0f} |"
        )
    return "\n".join(lines)


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
