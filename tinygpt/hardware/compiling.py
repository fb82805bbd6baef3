"""When torch.compile pays off."""

import shutil

# compiling takes about a minute, which shorter runs do not gain back
PAYS_AFTER_STEPS = {"cuda": 500, "cpu": 20_000}
# on a CPU it saves the time between operations, which is hidden by larger matrices
PAYS_BELOW_FLOPS = 8e9


def why_not(
    wanted: str,
    *,
    device_type: str,
    n_ranks: int,
    parallel: str,
    planned_steps: int | None,
    flops: float,
    before: bool | None,
    fused_products: bool,
) -> str | None:
    """Why a model is not compiled, to be put after device.compile=; None if it is.

    `wanted` is auto, always or never. `fused_products` says whether tinygpt's kernels compute the
    matrix products. The others are those of `Runtime.compile`.
    """
    if parallel == "fsdp" and wanted != "never":
        return ": not compiled, FSDP gathers between operations"
    if wanted == "never":
        return ""
    if wanted == "auto" and before is not True:
        reason = _no_gain(device_type, n_ranks, planned_steps, flops, before, fused_products)
        if reason is not None:
            return f": not compiled{reason}"
    if device_type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return ": not compiled, there is no C++ compiler"
    return None


def _no_gain(
    device_type: str,
    n_ranks: int,
    planned_steps: int | None,
    flops: float,
    before: bool | None,
    fused_products: bool,
) -> str | None:
    """Why device.compile=auto does not compile; None if it does."""
    if before is False:
        return ", as before"
    if device_type == "mps":
        return ", on mps it gains nothing"
    if device_type == "cpu":
        if n_ranks > 1:
            return ", several ranks share this CPU"
        if fused_products:
            return ", the fused kernels are quicker"
        if flops > PAYS_BELOW_FLOPS:
            return ", matrices this large gain nothing"
    enough = PAYS_AFTER_STEPS[device_type]
    if planned_steps is None:  # a clock ends the run, on a CPU often within a minute
        return " for a run by the clock" if device_type == "cpu" else None
    return f" for {planned_steps:,} steps" if planned_steps < enough else None
