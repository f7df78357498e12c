"""What the command prints of a label pass: its plan, how far it is, and what it published."""

from collections.abc import Sequence

from epfv2_jax.autolabel.plan import Plan
from epfv2_jax.autolabel.progress import PassStatus
from epfv2_jax.autolabel.verify import VerifyReport
from epfv2_jax.data import labels


def of_plan(plan: Plan) -> str:
    """Returns the size of a pass and the hashes that identify it."""
    return (
        f"{plan.records.num_frames} frames in {plan.num_units} units and {len(plan.streams)} streams; teacher "
        f"{plan.teacher.sha256[:12]}, plan {plan.sha256[:12]}"
    )


def of_counts(counts: Sequence[int]) -> str:
    """Returns the number of rows by status."""
    return ", ".join(f"{status.name.lower()} {count}" for status, count in zip(labels.Status, counts, strict=True))


def of_status(found: PassStatus) -> str:
    """Returns how far a pass is, how fast each worker is, and the time left."""
    lines = [f"{found.frames_done} of {found.frames} frames, {found.units_done} of {found.units} units"]
    if found.units_done:
        lines.append(of_counts(found.counts))
    lines += [
        f"{w.worker}: {w.frames} frames, {w.frames_per_s:.1f} frames/s, published {w.idle_s:.0f} s ago"
        for w in found.workers
    ]
    if found.frames_done < found.frames and found.seconds_left is None:
        lines.append("no worker has published lately")
    elif found.frames_done < found.frames:
        lines.append(f"time left: {found.seconds_left / 60:.1f} min")
    return "\n".join(lines)


def of_report(found: VerifyReport) -> str:
    """Returns the rows of a pass by status, statistics of each joint in cm, and the errors."""
    lines = [f"{found.frames} frames in {found.units} units: {of_counts(found.counts)}"]
    if found.frames:
        lines.append("joint (headset frame, cm)    mean x      y      z   std x      y      z   sigma")
        for name, mean, std, sigma in zip(found.joint_names, found.mean_m, found.std_m, found.sigma_m, strict=True):
            values = " ".join(f"{100 * x:6.1f}" for x in (*mean, *std, sigma))
            lines.append(f"{name:28s} {values}")
    lines += [f"error: {error}" for error in found.errors]
    return "\n".join(lines)
