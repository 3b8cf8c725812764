"""Tables and figures of the study's pages, from the rows of its runs.

``python examples/study/report.py [--results docs/study] [--out docs/study]``

Reads the CSV files that the other scripts of this folder have written, as far as they are there,
and writes ``tables/*.csv`` and ``figures/*.png``.
"""

import argparse
import pathlib

import matplotlib as mpl
import matplotlib.ticker

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from active_learning import N_BATCHES, SETTINGS
from protocol import equivalence, holm, standard_error, wilcoxon_p

PAPER = ("paper 10", "paper tuned")
ARMS = (
    *("base", "default", "refit when due", *PAPER, "paper hindsight", "first order"),
    *("reweighting", "SGD on new", "SGD on all", "warm refit", "retrained"),
)
MODES = ("sampled", "predicted", "expected", "updates", "refits")
MIN_SEEDS = 5  # of an arm that is shown
BOUND = 0.5  # points of accuracy that count as the same


def rows_of(folder, pattern):
    """All rows of the files of a pattern, with the words of their names in columns."""
    frames = []
    for path in sorted(folder.glob(pattern)):
        words = path.stem.replace("active_learning", "active").split("_")[1:]
        frame = pd.read_csv(path).assign(data=words[0])
        if len(words) > 1:
            frame["of"] = words[1]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


# --- updates ------------------------------------------------------------------------------------


def cells(table):
    """Each data set, prior, kind and number of new labels, with a column (measure, arm)."""
    for setting, cell in table.groupby(["data", "of", "new", "chosen"]):
        wide = cell.pivot(index=["initial", "seed"], columns="arm")
        yield dict(zip(("data", "prior", "new", "chosen"), setting, strict=True)), wide


def share_recovered(cell):
    """Ratio of mean gains to the retrained by arm; NaN if that is within two errors of zero."""
    gain = cell["accuracy"].sub(cell["accuracy", "base"], axis=0)
    full = gain["retrained"]
    error = standard_error(full, full.index.get_level_values("initial"))
    return gain.mean() / (full.mean() if full.mean() > 2 * error else np.nan)


def updates_by_setting(table):
    rows = []
    for setting, cell in cells(table):
        gain = cell["accuracy", "retrained"] - cell["accuracy", "base"]
        recovered = share_recovered(cell)
        for arm in ARMS:
            means = {
                m: cell[m, arm].mean() for m in ("accuracy", "nll", "brier", "ece", "tv", "flips")
            }
            rows.append(
                setting
                | {"arm": arm, "seeds": cell.index.get_level_values("seed").nunique()}
                | {"gain": 100 * gain.mean(), "recovered": 100 * recovered[arm], **means}
                | {"tv of hindsight": means["tv"] / cell["tv", "paper hindsight"].mean()}
                | {"times faster": (cell["ms", "retrained"] / cell["ms", arm]).median()}
                | {"ms": cell["ms", arm].median()}
            )
    return pd.DataFrame(rows)


def updates_by_arm(settings):
    """Means over the settings; ratios by their median."""
    by_arm = settings.groupby("arm")
    frame = by_arm[["recovered"]].mean()
    frame["of settings"] = by_arm["recovered"].count()
    frame["worst"] = by_arm["recovered"].min()
    frame = frame.join(by_arm[["accuracy", "nll", "brier", "ece", "tv", "flips"]].mean())
    frame = frame.join(by_arm[["times faster", "ms"]].median())
    return frame.loc[list(ARMS)].reset_index()


def updates_recovered(settings):
    chosen = ["default", "refit when due", *PAPER, "first order", "reweighting", "SGD on all"]
    index = ["data", "prior", "new", "chosen", "gain"]
    return settings.pivot(index=index, columns="arm", values="recovered")[chosen].reset_index()


def updates_against_paper(table):
    """The default less the paper's, p after Holm's correction over all settings."""
    rows = []
    for setting, cell in cells(table):
        strata = cell.index.get_level_values("initial")
        for rival in PAPER:
            row = setting | {"against": rival}
            for measure, scale in (("tv", 1), ("accuracy", 100)):
                difference = scale * (cell[measure, "default"] - cell[measure, rival])
                row |= {
                    measure: difference.mean(),
                    f"se {measure}": standard_error(difference, strata),
                }
                row[f"p {measure}"] = wilcoxon_p(difference)
            rows.append(row)
    frame = pd.DataFrame(rows)
    p = frame[["p tv", "p accuracy"]].to_numpy()
    frame[["p tv", "p accuracy"]] = holm(p.ravel()).reshape(p.shape)
    return frame


def draw_updates(settings, path):
    arms = ["default", "refit when due", *PAPER, "SGD on all", "reweighting", "base"]
    tv = settings.pivot_table(index=["data", "prior"], columns="arm", values="tv")[arms]
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for place, arm in enumerate(arms):
        axes.scatter(np.full(len(tv), place), tv[arm], s=18, color="C0", alpha=0.7)
        axes.scatter(place, tv[arm].mean(), marker="_", s=400, color="black")
    axes.set_xticks(range(len(arms)), arms, rotation=20)
    axes.set(ylabel="Total variation to retraining", yscale="log")
    axes.grid(axis="y", alpha=0.3)
    save(figure, path)


# --- active learning ----------------------------------------------------------------------------


def areas_of(table):
    """(seed, (strategy, mode)) for each data set and batch size."""
    for (data, batch), runs in table.groupby(["data", "of"]):
        areas = runs.pivot_table(index="seed", columns=["strategy", "mode"], values="area")
        yield data, int(batch), areas, runs


def fewest(table):
    """Seeds that an arm needs to be shown, less after ``--quick``."""
    return min(MIN_SEEDS, table.seed.nunique())


def modes_against_top_b(table):
    """Points of area less those of top-b, p after Holm's over all of a data set."""
    rows = []
    for data, batch, areas, _ in areas_of(table):
        for strategy, mode in areas.columns:
            if mode == "top-b" or (strategy, "top-b") not in areas:
                continue
            difference = 100 * (areas[strategy, mode] - areas[strategy, "top-b"]).dropna()
            if len(difference) >= fewest(table):
                rows.append(
                    {"data": data, "batch": batch, "strategy": strategy, "mode": mode}
                    | {"seeds": len(difference), "area": 100 * areas[strategy, mode].mean()}
                    | {"less top-b": difference.mean(), "se": standard_error(difference)}
                    | {"p": wilcoxon_p(difference)}
                )
    frame = pd.DataFrame(rows)
    frame["p corrected"] = frame.groupby("data")["p"].transform(lambda p: holm(p.to_numpy()))
    return frame


def updates_against_refits(table):
    """Equivalence of label by label with updates and with refits."""
    rows = []
    for data, batch, areas, _ in areas_of(table):
        for strategy in areas.columns.get_level_values(0).unique():
            if (strategy, "refits") not in areas or (strategy, "updates") not in areas:
                continue
            difference = 100 * (areas[strategy, "updates"] - areas[strategy, "refits"]).dropna()
            if len(difference) >= fewest(table):
                not_worse, p, low, high = equivalence(difference, BOUND)
                rows.append(
                    {"data": data, "batch": batch, "strategy": strategy, "seeds": len(difference)}
                    | {"updates less refits": difference.mean(), "low": low, "high": high}
                    | {"p not worse": not_worse, "p": p}
                )
    return pd.DataFrame(rows)


def predicted_against_sampled(table):
    """Points of area with predicted labels less those with sampled ones."""
    rows = []
    for data, batch, areas, _ in areas_of(table):
        for strategy in areas.columns.get_level_values(0).unique():
            if (strategy, "predicted") not in areas or (strategy, "sampled") not in areas:
                continue
            difference = 100 * (areas[strategy, "predicted"] - areas[strategy, "sampled"]).dropna()
            if len(difference) >= fewest(table):
                rows.append(
                    {"data": data, "batch": batch, "strategy": strategy, "seeds": len(difference)}
                    | {"predicted less sampled": difference.mean()}
                    | {"se": standard_error(difference), "p": wilcoxon_p(difference)}
                )
    frame = pd.DataFrame(rows)
    frame["p corrected"] = frame.groupby("data")["p"].transform(lambda p: holm(p.to_numpy()))
    return frame


def strategies_against_random(table):
    """Of batches at once: areas, differences to random labels, labels for 90 % of all labels."""
    rows = []
    for data, batch, areas, runs in areas_of(table):
        full = runs[runs.strategy == "all labels"].area.mean()
        for strategy, curves in runs[runs["mode"] == "top-b"].groupby("strategy"):
            if strategy == "all labels":
                continue
            difference = 100 * (areas[strategy, "top-b"] - areas["random", "top-b"]).dropna()
            if len(difference) < fewest(table):
                continue
            curve = np.mean([np.fromstring(c, sep=" ") for c in curves.accuracies], axis=0)
            enough = np.flatnonzero(curve >= 0.9 * full)
            needed = SETTINGS[data].n_initial + batch * enough[0] if len(enough) else np.nan
            rows.append(
                {"data": data, "batch": batch, "strategy": strategy, "seeds": len(difference)}
                | {"area": 100 * areas[strategy, "top-b"].mean(), "less random": difference.mean()}
                | {"se": standard_error(difference), "p": wilcoxon_p(difference)}
                | {"labels for 90 %": needed, "last": 100 * curve[-1]}
                | {"s a query": curves.seconds.mean() / N_BATCHES[batch]}
            )
    frame = pd.DataFrame(rows)
    frame["p"] = frame.groupby("data")["p"].transform(lambda p: holm(p.to_numpy()))
    return frame.sort_values(["data", "batch", "area"], ascending=[True, True, False])


def draw_modes(modes, path):
    shown = modes[modes.strategy.isin(["margin", "least confident", "entropy"])]
    data_sets = list(shown.data.unique())
    names = sorted(set(zip(shown.strategy, shown.batch, strict=True)))
    size = (2 * len(data_sets) + 1.6, 3.6)
    figure, axes = plt.subplots(1, len(data_sets), figsize=size, sharey=True, layout="constrained")
    for ax, data in zip(np.atleast_1d(axes), data_sets, strict=True):
        for place, (strategy, batch) in enumerate(names):
            chosen = (shown.data == data) & (shown.strategy == strategy) & (shown.batch == batch)
            arms = shown[chosen]
            for mode, mean, error in zip(arms["mode"], arms["less top-b"], arms.se, strict=True):
                colour = MODES.index(mode)
                ax.errorbar(
                    mean, place + 0.12 * (colour - 2), xerr=2 * error, fmt="o", ms=3,
                    color=f"C{colour}",
                )  # fmt: skip
        ax.axvline(0, color="black", lw=0.8)
        ax.set_yticks(range(len(names)), [f"{s}, {b}" for s, b in names])
        ax.set(title=data, xlabel="points over top-b")
    handles = [plt.Line2D([], [], color=f"C{i}", marker="o", ls="", ms=4) for i in range(5)]
    figure.legend(handles, MODES, loc="outside lower center", ncols=5)
    save(figure, path)


# --- speed --------------------------------------------------------------------------------------


def speed_ratios(table):
    index = ["n", "D", "C", "b", "covariance"]
    ratios = table.pivot(index=index, columns="rival", values="ratio")
    ratios.insert(0, "update ms", table.groupby(index).ours_ms.median())
    return ratios.reset_index()


def draw_speed(table, path):
    figure, axes = plt.subplots(1, 4, figsize=(9, 2.8), sharey=True, layout="constrained")
    base = {"n": 1000, "D": 384, "C": 77, "b": 10}
    rivals = ("RAdam", "LogisticRegression cold", "refit warm", "SGDClassifier")
    for ax, name in zip(axes, base, strict=True):
        others = [other for other in base if other != name]
        rest = (table[others] == pd.Series(base)[others]).all(axis=1)
        for colour, rival in enumerate(rivals):
            for covariance, style in (("shared", "-"), ("auto", ":")):
                rows = table[rest & (table.rival == rival) & (table.covariance == covariance)]
                rows = rows.sort_values(name)
                ax.plot(rows[name], rows.ratio, style, marker="o", ms=3, color=f"C{colour}")
        ax.set(xscale="log", yscale="log", xlabel=name)
        ax.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        ax.axhline(1, color="black", lw=0.8)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("times the time of an update")
    handles = [plt.Line2D([], [], color=f"C{i}", marker="o", ms=4) for i in range(len(rivals))]
    figure.legend(handles, rivals, loc="outside lower center", ncols=4)
    save(figure, path)


# --- calibration --------------------------------------------------------------------------------


def calibration_means(table, part):
    keys = ["data", "labels", "prior", "method", "calibration"]
    runs = table[table.part == part]
    means = runs.groupby(keys)[["accuracy", "nll", "brier", "ece"]].mean()
    means.insert(0, "seeds", runs.groupby(keys).seed.nunique())
    bound = means.xs("bound", level="method").nll.droplevel("calibration")
    means["nll of bound"] = means.nll / bound.reindex(means.index.droplevel([3, 4])).to_numpy()
    return means.reset_index()


def ood_means(table):
    keys = ["method", "uncertainty"]
    shown = table[(table.prior == 1) & (table.labels == 5)]
    return shown.pivot_table(index=keys, columns=["other", "data"], values="auroc").reset_index()


def draw_reliability(table, path):
    shown = {
        ("plug-in", "none"): "plug-in",
        ("mean field", "none"): "uncalibrated",
        ("mean field", "loo"): "default",
        ("ensemble", "none"): "ensemble of MLPs",
    }
    data_sets = list(table.data.unique())
    figure, axes = plt.subplots(
        1, len(data_sets), figsize=(2.4 * len(data_sets), 3), sharey=True, layout="constrained"
    )
    for ax, data in zip(np.atleast_1d(axes), data_sets, strict=True):
        for (method, calibration), label in shown.items():
            rows = table[
                (table.data == data) & (table.method == method) & (table.calibration == calibration)
            ]
            weighted = rows[["confidence", "accuracy"]].mul(rows["count"], axis=0)
            sums = weighted.assign(count=rows["count"]).groupby(rows["bin"]).sum()
            sums = sums[sums["count"] >= 20]
            ax.plot(sums.confidence / sums["count"], sums.accuracy / sums["count"], "o-", ms=3,
                    label=label)  # fmt: skip
        ax.plot([0, 1], [0, 1], color="black", lw=0.8)
        ax.set(title=data, xlabel="confidence")
    np.atleast_1d(axes)[0].set_ylabel("accuracy")
    np.atleast_1d(axes)[0].legend(fontsize=7)
    save(figure, path)


# --- prior --------------------------------------------------------------------------------------

RULES = ("1.0", "scale", "evidence", "loo")


def prior_by_rule(table):
    """Accuracy in per cent and log loss of each rule; hindsight is the best share of a cell."""
    rows = []
    for (data, labels), cell in table.groupby(["data", "labels"]):
        accuracy = 100 * cell.pivot(index="seed", columns="arm", values="accuracy")
        nll = cell.pivot(index="seed", columns="arm", values="nll").mean()
        shares = [arm for arm in accuracy if arm.startswith("share")]
        row = {"data": data, "labels": labels} | accuracy[list(RULES)].mean().to_dict()
        row["hindsight"] = accuracy[shares].mean().max()
        difference = accuracy["scale"] - accuracy["evidence"]
        row["scale less evidence"] = difference.mean()
        row["se"] = standard_error(difference)
        row |= {f"log loss, {rule}": nll[rule] for rule in ("1.0", "scale", "evidence")}
        rows.append(row | {"log loss, hindsight": nll[shares].min()})
    return pd.DataFrame(rows).rename(columns=lambda name: name.replace("1.0", "1"))


def prior_over_all(by_rule):
    """How far each rule is below hindsight over all cells, with the Wilcoxon test of "scale"."""
    below = by_rule[["1", *RULES[1:]]].rsub(by_rule["hindsight"], axis=0)
    frame = pd.DataFrame({"mean": below.mean(), "worst": below.max()})
    frame["p against scale"] = [
        np.nan if rule == "scale" else wilcoxon_p(below[rule] - below["scale"]) for rule in below
    ]
    return frame.rename_axis("prior precision").reset_index()


def draw_prior(table, path):
    """How far each share of the total variance is below the best of its cell."""
    shares = table[table.arm.str.startswith("share")]
    shares = shares.assign(share=shares.arm.str.removeprefix("share ").astype(float))
    means = shares.groupby(["data", "labels", "share"]).accuracy.mean().unstack()
    below = 100 * means.sub(means.max(axis=1), axis=0)
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    few = below.index.get_level_values("labels") < 100
    for i, (data, lines) in enumerate(below.groupby("data")):
        for cell, is_few in zip(lines.index, few[below.index.get_locs([data])], strict=True):
            style = "--" if is_few else "-"
            axes.plot(below.columns, below.loc[cell], style, color=f"C{i}", lw=1, alpha=0.8)
        axes.plot([], [], color=f"C{i}", label=data)
    axes.plot([], [], "--", color="grey", label="10 or 30 labels")
    axes.axvline(0.01, color="black", lw=1, ls=":")
    axes.text(0.0103, -9.7, '"scale"', fontsize=9)
    axes.set(xscale="log", ylim=(-10, 0.3), ylabel="Points below the best")
    axes.set_xlabel("Prior precision, as a share of the total variance of the features")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    save(figure, path)


# --- files --------------------------------------------------------------------------------------


def save(figure, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(frame, path):
    """Three significant digits, small p-values as < 0.001."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = frame.copy()
    frame.columns = [" ".join(filter(None, c)) if isinstance(c, tuple) else c for c in frame]
    for column in frame.select_dtypes("float"):
        values = frame[column].replace(np.inf, np.nan)
        if column == "p" or column.startswith("p "):
            frame[column] = [
                "" if np.isnan(v) else "< 0.001" if v < 0.001 else f"{v:.3f}" for v in values
            ]
        else:
            frame[column] = ["" if np.isnan(v) else readable(v) for v in values]
    frame.to_csv(path, index=False, lineterminator="\n")


def readable(value):
    """About three significant digits, never an exponent."""
    digits = max(0, 2 - int(np.floor(np.log10(abs(value))))) if value else 0
    return f"{value:.{min(digits, 4)}f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("docs/study"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/study"))
    args = parser.parse_args()
    tables, figures = args.out / "tables", args.out / "figures"
    updates = rows_of(args.results, "updates_*.csv")
    if len(updates):
        settings = updates_by_setting(updates)
        write(updates_by_arm(settings), tables / "updates_arms.csv")
        write(updates_recovered(settings), tables / "updates_recovered.csv")
        write(updates_against_paper(updates), tables / "updates_tests.csv")
        draw_updates(settings, figures / "updates.png")
    runs = rows_of(args.results, "active_learning_*.csv")
    if len(runs):
        modes = modes_against_top_b(runs)
        write(modes, tables / "modes.csv")
        write(predicted_against_sampled(runs), tables / "predicted.csv")
        write(updates_against_refits(runs), tables / "equivalence.csv")
        write(strategies_against_random(runs), tables / "strategies.csv")
        draw_modes(modes, figures / "modes.png")
    prior = rows_of(args.results, "prior_*.csv")
    if len(prior):
        by_rule = prior_by_rule(prior)
        write(by_rule, tables / "prior.csv")
        write(prior_over_all(by_rule), tables / "prior_over_all.csv")
        draw_prior(prior, figures / "prior.png")
    if (args.results / "speed.csv").exists():
        speed = pd.read_csv(args.results / "speed.csv")
        write(speed_ratios(speed), tables / "speed.csv")
        draw_speed(speed, figures / "speed.png")
    calibration = rows_of(args.results, "calibration_*.csv")
    if len(calibration):
        write(calibration_means(calibration, "random"), tables / "calibration.csv")
        write(calibration_means(calibration, "chosen"), tables / "calibration_chosen.csv")
        write(ood_means(rows_of(args.results, "ood_*.csv")), tables / "ood.csv")
        draw_reliability(rows_of(args.results, "reliability_*.csv"), figures / "reliability.png")


if __name__ == "__main__":
    main()
