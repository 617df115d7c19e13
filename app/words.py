"""Every string that the app shows, in English and Chinese, in one table.

``w = words("zh")`` and then ``w("term.trial")``, or ``w("key", count=3)`` where the string has
fields. A new string is a new row of `WORDS`; a test sees to it that both languages name the same
fields and that no key is unknown or unused.

Not covered: what the charts do to names from runs before a browser sees them
(`app.charts.style.plain`), and the numbers' format, which is the same in both languages.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: dict[Language, str] = {"en": "English", "zh": "中文"}


@dataclass(frozen=True)
class Words:
    """The strings of one language."""

    language: Language

    def __call__(self, key: str, **fields: object) -> str:
        """The string, its fields filled in with `str.format`.

        Raises:
            KeyError: There is no such key, or a field is missing.
        """
        return WORDS[key][get_args(Language).index(self.language)].format(**fields)


@cache
def words(language: Language) -> Words:
    """The strings of a language.

    Raises:
        ValueError: It is neither ``en`` nor ``zh``.
    """
    if language not in LANGUAGES:
        raise ValueError(f"no such language: {language!r}; there are {', '.join(LANGUAGES)}")
    return Words(language)


WORDS: dict[str, tuple[str, str]] = {
    # -- pages
    "page.studies": ("Studies", "研究"),
    "page.study": ("Study", "研究详情"),
    "page.compare": ("Compare", "对比"),
    "page.ensemble": ("Ensemble", "集成"),
    "page.run": ("Run", "单次试验"),
    "settings": ("Settings", "设置"),
    "settings.language": ("Language", "语言"),
    "settings.picture": ("Pictures are saved as", "图片保存格式"),
    "settings.theme": (
        "Light or dark: the menu at the top right.",
        "浅色或深色主题：见右上角菜单。",
    ),
    "csv": ("CSV", "CSV"),
    "csv.help": ("The data of this chart or table", "此图或表的数据"),
    "chart.not_served": (
        "Charts are drawn in the app that `hpo ui` starts; this one was started otherwise.",
        "图表只在由 `hpo ui` 启动的应用中绘制；当前应用以其他方式启动。",
    ),
    "and_more": (" and {count} more", " 等，另有 {count} 个"),
    "term.study": ("Study", "研究"),
    "state.complete": ("complete", "已完成"),
    "state.pruned": ("pruned", "已剪枝"),
    "state.failed": ("failed", "失败"),
    "state.stopped": ("stopped", "已停止"),
    "state.running": ("running", "运行中"),
    "state.paused": ("paused", "已暂停"),
    "state.waiting": ("waiting", "等待中"),
    "state.unreadable": ("unreadable", "无法读取"),
    "state.interrupted": ("interrupted", "已中断"),
    "column.state": ("State", "状态"),
    "column.trials": ("Trials", "试验"),
    "column.metric": ("Metric", "指标"),
    "column.best": ("Best", "最优值"),
    "column.so_far": ("Best so far", "最优值走势"),
    "column.used": ("Budget used", "预算已用"),
    "column.updated": ("Changed", "更新时间"),
    "column.source": ("Read from", "来源"),
    "source.here": ("here", "本机"),
    "studies.search": ("Search by name, state or metric", "按名称、状态或指标搜索"),
    "studies.none_match": ("None of the {count} studies matches.", "{count} 个研究中没有匹配项。"),
    "studies.connecting": ("Looking into MLflow for more …", "正在从 MLflow 查找更多研究……"),
    "studies.how": ("Click a row to open its study.", "点击一行即可打开该研究。"),
    "studies.empty": (
        "No study has been run here yet. Start one, and it appears on this page:",
        "这里还没有运行过研究。启动一个，它就会出现在本页：",
    ),
    "study.choose": ("Choose a study first.", "请先选择一个研究。"),
    "study.unknown": ("There is no study {study} here.", "这里没有研究 {study}。"),
    "study.unreadable": (
        "The study {study} cannot be read now ({why}). Reload the page to try again.",
        "暂时无法读取研究 {study}（{why}）。请刷新页面重试。",
    ),
    "mlflow.down": (
        "{why} What is shown is what was known before.",
        "{why} 页面显示的是此前已知的内容。",
    ),
    "compare.chosen": ("Chosen to compare: {count}", "已选 {count} 个试验"),
    "compare.open": ("Compare", "对比"),
    "compare.clear": ("Clear", "清空"),
    "compare.these": ("Compare these {count}", "对比这 {count} 个"),
    "compare.add": ("Add {count} to the comparison", "将 {count} 个加入对比"),
    "run.open": ("Open this run", "打开该试验"),
    "time.days": ("{days} d {hours} h", "{days} 天 {hours} 小时"),
    "time.hours": ("{hours} h {minutes} min", "{hours} 小时 {minutes} 分"),
    "time.minutes": ("{minutes} min {seconds} s", "{minutes} 分 {seconds} 秒"),
    "time.seconds": ("{seconds} s", "{seconds} 秒"),
    "log_axis": ("Log scale", "对数坐标"),
    "study.best.maximize": (
        "best, of trial {trial}; more is better",
        "最优，试验 {trial}；越大越好",
    ),
    "study.best.minimize": (
        "best, of trial {trial}; less is better",
        "最优，试验 {trial}；越小越好",
    ),
    "column.rank": ("Rank", "名次"),
    "column.number": ("Trial", "试验"),
    "column.value": ("Value", "目标值"),
    "column.best_epoch": ("Best epoch", "最优轮次"),
    "column.seconds": ("Seconds", "用时（秒）"),
    "column.reason": ("Reason", "原因"),
    "study.view": ("View", "视图"),
    "study.view.overview": ("Overview", "总览"),
    "study.view.parameters": ("Parameters", "超参数"),
    "study.view.curves": ("Learning curves", "学习曲线"),
    "study.view.workers": ("Workers and failures", "工作进程与失败"),
    "study.no_trials": ("No trial has begun yet.", "还没有试验开始。"),
    "study.took": ("Time", "用时"),
    "study.left": ("about {time} left", "约剩 {time}"),
    "study.fetching": (
        "The curves of {count} trials are still being fetched from MLflow.",
        "仍在从 MLflow 获取 {count} 个试验的曲线。",
    ),
    "history.by": ("Over", "横轴"),
    "history.by.trial": ("Over trials", "按试验"),
    "history.by.time": ("Over time", "按时间"),
    "advice": ("What to try next", "下一步建议"),
    "advice.none": (
        "Nothing stands out: no range is exhausted, no parameter is idle.",
        "暂无明显问题：没有触及边界的范围，也没有无关的超参数。",
    ),
    "advice.early": (
        "Too early to say more: {trials} trials are complete.",
        "为时尚早：只有 {trials} 个试验已完成。",
    ),
    "advice.edge.low": (
        "**Widen {param} downwards**: {share:.0%} of the best {among} trials lie at its lower "
        "end, {bound:.4g}.",
        "**向下扩大 {param}**：最优的 {among} 个试验中有 {share:.0%} 位于下界 {bound:.4g}。",
    ),
    "advice.edge.high": (
        "**Widen {param} upwards**: {share:.0%} of the best {among} trials lie at its upper "
        "end, {bound:.4g}.",
        "**向上扩大 {param}**：最优的 {among} 个试验中有 {share:.0%} 位于上界 {bound:.4g}。",
    ),
    "advice.idle": (
        "**Fix {param}**: it hardly decides whether a trial is among the best tenth (importance "
        "{importance:.1%}).",
        "**固定 {param}**：它几乎不影响试验能否进入最优的十分之一（重要性 {importance:.1%}）。",
    ),
    "advice.noise": (
        "**The best {among} are tied**: they differ by {gain:.2g}, and the validation rows alone "
        "make ±{noise:.2g} (one standard error). Compare them before choosing.",
        "**前 {among} 名难分高下**：差距为 {gain:.2g}，而仅验证集抽样就有 ±{noise:.2g}"
        "（一个标准误）。选择前请先对比。",
    ),
    "advice.stale": (
        "**No better trial in the last {trials}**: the best is still trial {best}. Change the "
        "space, or stop.",
        "**最近 {trials} 个试验没有更优结果**：最优仍是试验 {best}。请调整搜索空间或停止。",
    ),
    "advice.failing": (
        "**{share:.0%} of the trials fail** ({count}), mostly: {reason}",
        "**{share:.0%} 的试验失败**（{count} 个），主要原因：{reason}",
    ),
    "parameters.none": ("This study searches nothing.", "该研究没有搜索任何超参数。"),
    "importances.too_few": (
        "Importances need two parameters and four complete trials.",
        "计算重要性至少需要两个超参数和四个已完成的试验。",
    ),
    "importances.few": (
        "Only {trials} complete trials: take this ranking as a hint.",
        "只有 {trials} 个已完成的试验：该排序仅供参考。",
    ),
    "slices.of": ("Parameters", "超参数"),
    "contour.x": ("Across", "横轴"),
    "contour.y": ("Up", "纵轴"),
    "curves.none": ("No epoch has been reported yet.", "还没有任何轮次的记录。"),
    "curves.best": ("Best trials drawn", "突出显示的最优试验数"),
    "leaderboard.states": ("Only these states", "仅显示这些状态"),
    "column.worker": ("Worker", "工作进程"),
    "column.last_epoch": ("Epoch", "当前轮次"),
    "leaderboard": ("Leaderboard", "排行榜"),
    "leaderboard.where": (
        "Filter, e.g. value > 0.9 and lr < 0.1",
        "筛选，例如 value > 0.9 and lr < 0.1",
    ),
    "leaderboard.bad_where": (
        "The filter is not understood: {why}. Names with a dot or a slash stand in backquotes: "
        "\\`val/loss\\` < 0.5",
        "无法理解该筛选条件：{why}。含点号或斜杠的名称需用反引号括起：\\`val/loss\\` < 0.5",
    ),
    "leaderboard.columns": ("Columns", "列"),
    "leaderboard.shown": (
        "{shown} of {of} trials. Choose rows to compare them.",
        "共 {of} 个试验，显示 {shown} 个。勾选行即可对比。",
    ),
    "control.stop": ("Stop", "停止"),
    "control.stop.help": (
        "As `hpo stop`: each worker finishes its epoch and saves; run it again to go on.",
        "等同 `hpo stop`：每个工作进程完成当前轮次并保存；再次运行即可继续。",
    ),
    "control.more": ("More trials", "追加试验"),
    "control.more.count": ("How many more", "追加数量"),
    "control.more.go": ("Go on", "继续运行"),
    "control.started": (
        "Started; it appears here in a moment. What it says is in {log}.",
        "已启动，稍后会显示在这里。其输出在 {log} 中。",
    ),
    "control.stopping": (
        "It is still stopping. What it says is in {log}.",
        "仍在停止中。其输出在 {log} 中。",
    ),
    # -- charts: what several of them say
    "term.trial": ("trial", "试验"),
    "term.epoch": ("epoch", "轮"),
    "term.value": ("value", "值"),
    "term.parameter": ("parameter", "参数"),
    "term.rows": ("rows", "样本数"),
    "unit.seconds": ("s", "秒"),
    "unit.minutes": ("min", "分钟"),
    "unit.hours": ("h", "小时"),
    "unit.days": ("days", "天"),
    "goal.maximize": ("more is better", "越大越好"),
    "goal.minimize": ("less is better", "越小越好"),
    "empty.no_trials": ("No trial has begun yet.", "还没有试验开始。"),
    "empty.no_values": ("No trial has a value yet.", "还没有试验得到结果。"),
    "empty.no_curves": ("No trial has reported {metric} yet.", "还没有试验上报 {metric}。"),
    "empty.no_epochs": ("This run has not reported an epoch yet.", "该试验还没有上报任何一轮。"),
    "empty.no_resources": (
        "What this run used of its machine is not recorded.",
        "该试验没有记录资源占用。",
    ),
    "empty.no_both": (
        "No finished trial had both parameters.",
        "没有已结束的试验同时用到这两个参数。",
    ),
    "empty.no_importances": (
        "Importances need a few complete trials with different values.",
        "需要若干已完成且结果不同的试验，才能计算重要性。",
    ),
    "empty.nothing_pruned": ("No trial has been pruned.", "没有试验被剪枝。"),
    "empty.nothing_failed": ("No trial has failed.", "没有试验失败。"),
    "empty.no_rows": ("There are no predictions to show.", "没有可显示的预测结果。"),
    "empty.no_curve_of_class": (
        "A curve needs rows that are of this class and rows that are not.",
        "需要同时有该类别和其他类别的样本才能画出曲线。",
    ),
    "empty.no_repeats": (
        "No two of these runs differ in nothing but the seed.",
        "这些试验中没有仅随机种子不同的重复。",
    ),
    "caption.not_positive": (
        "Not shown on the log axis: {count} values of zero or less.",
        "对数坐标无法显示 {count} 个不大于零的值。",
    ),
    "caption.outside": (
        "Points far outside: {count}; a double click shows them too.",
        "有 {count} 个点远在视野之外；双击图表可全部显示。",
    ),
    "caption.no_value": (
        "Left out: {count} without a value.",
        "已略去 {count} 个没有结果的试验。",
    ),
    "caption.more_runs": ("Further runs, not drawn: {count}.", "另有 {count} 个试验未画出。"),
    # -- charts of a study
    "history.by_trial": ("over trials", "随试验的变化"),
    "history.by_time": ("over time", "随时间的变化"),
    "history.elapsed": ("time since the study began ({unit})", "研究开始后的时间（{unit}）"),
    "history.best_so_far": ("best so far", "当前最优"),
    "history.no_value": ("no value", "无结果"),
    "bands.title": ("Learning curves of all trials: {metric}", "全部试验的学习曲线：{metric}"),
    "bands.80": ("middle 80 %", "中间 80%"),
    "bands.50": ("middle 50 %", "中间 50%"),
    "bands.median": ("median", "中位数"),
    "bands.trials": ("trials at this epoch", "到达该轮的试验数"),
    "bands.rest": ("other trials", "其他试验"),
    "bands.best": ("trial {trial}", "试验 {trial}"),
    "bands.caption": (
        "Bands are over the trials that reached an epoch: where many are pruned, they narrow.",
        "每一轮的区间只统计到达该轮的试验：剪枝越多，区间越窄。",
    ),
    "bands.faint": (
        "Behind them {shown} of {all} other trials, evenly by rank.",
        "背景为其余 {all} 个试验中按名次均匀选取的 {shown} 个。",
    ),
    "parallel.title": ("Parameters and value of each trial", "各试验的参数与结果"),
    "parallel.best": ("best {percent} %", "最优 {percent}%"),
    "parallel.next": ("next {percent} %", "其后 {percent}%"),
    "parallel.worst": ("worst {percent} %", "最差 {percent}%"),
    "parallel.not_set": ("not set", "未设置"),
    "parallel.beyond": (
        "Values far from the others, at the end of their axis: {count}.",
        "有 {count} 个远离其余的值画在坐标轴的末端。",
    ),
    "parallel.caption": (
        "Draw boxes on the axes to choose trials: several on one axis add up, those on different "
        "axes must all hold. With Shift a box is added.",
        "在坐标轴上画框即可选择试验：同一轴上的框取并集，不同轴取交集。按住 Shift 可再加一个框。",
    ),
    "slices.title": ("{metric} by parameter", "{metric} 与各参数的关系"),
    "contour.title": ("{metric} over two parameters", "{metric} 随两个参数的变化"),
    "contour.caption": (
        "Means of the complete trials nearby (points); blank where there are none.",
        "颜色为附近已完成试验（圆点）的加权均值；空白处没有试验。",
    ),
    "contour.with_pruned": (
        "Means of the trials nearby (points), pruned ones too, since few are complete; blank "
        "where there are none.",
        "颜色为附近试验（圆点）的加权均值，因已完成的试验较少而包含已剪枝的；空白处没有试验。",
    ),
    "contour.too_few": (
        "Too few different trials to say what lies between them.",
        "不同的试验太少，无法推断其间的情况。",
    ),
    "importances.title": ("Importance of parameters", "参数重要性"),
    "importances.share": ("importance (they add up to 1)", "重要性（总和为 1）"),
    "rungs.title": ("Pruned and gone on, by epoch", "各轮的剪枝与继续情况"),
    "rungs.trials": ("trials", "试验数"),
    "rungs.went_on": ("went on", "继续训练"),
    "rungs.pruned": ("pruned here", "在此剪枝"),
    "rungs.ended": ("ended here otherwise", "在此以其他方式结束"),
    "failures.title": ("Failed trials by cause", "失败试验的原因"),
    "failures.more": (
        "Rarer causes, in the CSV: {count}.",
        "另有 {count} 种较少见的原因见 CSV。",
    ),
    "pareto.title": ("Trade-offs between the objectives", "多个目标之间的权衡"),
    "pareto.front": ("Pareto front", "Pareto 前沿"),
    "pareto.beaten": ("dominated by another trial", "被支配"),
    "pareto.caption": (
        "{front} of {all} complete trials are on the front: no other is at least as good in "
        "everything and better in something.",
        "{all} 个已完成的试验中有 {front} 个在前沿上：没有其他试验各目标都不差且至少一项更好。",
    ),
    "timeline.title": ("What each worker trained when", "各 worker 的训练时间线"),
    "timeline.row": ("worker {worker} · idle {idle}", "worker {worker} · 空闲 {idle}"),
    "timeline.took": ("took", "耗时"),
    "timeline.together": (
        "together with others, {count} in all",
        "与其他试验同时训练，共 {count} 个",
    ),
    "timeline.short": (
        "Not drawn: the {count} shortest of all spans.",
        "未画出最短的 {count} 段。",
    ),
    # -- charts of runs
    "curves.over_epoch": ("epoch", "轮"),
    "curves.over_time": ("time in training ({unit})", "训练时间（{unit}）"),
    "curves.over_samples": ("samples seen", "已训练样本数"),
    "curves.train": ("training", "训练"),
    "curves.val": ("validation", "验证"),
    "curves.smoothed": (" · smoothed {weight}", " · 平滑 {weight}"),
    "curves.hover_names": (
        "So many runs have no legend: hovering names them.",
        "试验较多，不显示图例；悬停可查看名称。",
    ),
    "run.curves": ("Metrics", "指标"),
    "run.best_epoch": (
        "The dotted line is the best epoch, {epoch}.",
        "虚线处为最优轮：第 {epoch} 轮。",
    ),
    "run.parts": ("{metric} of each fold or seed", "各折（或各随机种子）的 {metric}"),
    "run.parts.mean": ("mean of all", "全部均值"),
    "run.details": ("Folds, members and cost", "折、成员与开销"),
    "run.details.how": (
        "At the best epoch. member/… are means over the members of this trial's ensemble, oob/… "
        "estimates on the rows that members were not trained on, …_std/… standard deviations.",
        "取最优轮次。member/… 为该试验集成成员的均值，oob/… 为未参与训练的样本上的估计，"
        "…_std/… 为标准差。",
    ),
    "run.resources": ("Use of the machine", "资源占用"),
    "roc.title": ("ROC", "ROC 曲线"),
    "roc.fpr": ("false positive rate", "假阳性率"),
    "roc.tpr": ("true positive rate", "真阳性率"),
    "roc.auc": ("AUC", "AUC"),
    "roc.chance": ("chance", "随机猜测"),
    "roc.point": ("at the threshold", "阈值处"),
    "pr.title": ("Precision and recall", "精确率–召回率曲线"),
    "pr.recall": ("recall", "召回率"),
    "pr.precision": ("precision", "精确率"),
    "pr.ap": ("AP", "AP"),
    "point.tpr": ("true positive rate", "真阳性率"),
    "point.fpr": ("false positive rate", "假阳性率"),
    "point.precision": ("precision", "精确率"),
    "point.f1": ("F1", "F1"),
    "point.accuracy": ("accuracy", "准确率"),
    "calibration.title": ("Calibration", "校准曲线"),
    "calibration.said": ("probability it was said with", "预测的概率"),
    "calibration.right": ("share that is right", "实际正确的比例"),
    "calibration.error": ("expected calibration error", "期望校准误差"),
    "calibration.perfect": ("perfectly calibrated", "完全校准"),
    "histograms.title": ("Scores", "得分分布"),
    "histograms.score": ("probability of the class", "属于该类的概率"),
    "histograms.share": ("share of the group (%)", "占该组的比例（%）"),
    "histograms.positives": ("of the class", "属于该类"),
    "histograms.negatives": ("of others", "属于其他类"),
    "confusion.title": ("Confusion matrices", "混淆矩阵"),
    "confusion.said": ("predicted", "预测类别"),
    "confusion.truth": ("true", "真实类别"),
    "confusion.share": ("of the true class", "占该真实类别"),
    "confusion.caption": (
        "Counts; the colour is the share of the true class.",
        "数字为样本数；颜色表示占该真实类别的比例。",
    ),
    "confusion.left_out": (
        "Classes with fewer errors, left out: {count}.",
        "已略去错误较少的 {count} 个类别。",
    ),
    "confusion.difference": ("{a} minus {b}", "{a} 减 {b}"),
    "confusion.better": (
        "Counts of the first minus the second. Blue: the first is better (more on the diagonal, "
        "fewer beside it); orange: worse.",
        "前者的样本数减后者。蓝色表示前者更好（对角线更多、其余更少），橙色表示更差。",
    ),
    "classes.title": ("{metric} of each class", "各类别的{metric}"),
    "classes.precision": ("precision", "精确率"),
    "classes.recall": ("recall", "召回率"),
    "classes.f1": ("F1", "F1"),
    "classes.auc": ("AUC", "AUC"),
    "classes.left_out": (
        "Classes with better values, left out: {count}.",
        "已略去数值较好的 {count} 个类别。",
    ),
    "intervals.title": ("{metric} with 95 % intervals", "{metric} 及其 95% 区间"),
    "intervals.caption": (
        "Intervals say what other validation rows could have given; runs whose intervals overlap "
        "may still differ.",
        "区间反映换一批验证样本时结果的波动；区间重叠的试验仍可能确有差异。",
    ),
    "seeds.title": ("{metric} over seeds", "{metric} 随种子的波动"),
    "seeds.run": ("run", "单次试验"),
    "seeds.mean": ("mean with its 95 % interval", "均值及其 95% 区间"),
    "seeds.sd": ("standard deviation", "标准差"),
    "seeds.same": ("all parameters the same", "参数全部相同"),
    "seeds.caption": (
        "Each row: runs with the same parameters and other seeds or folds.",
        "每一行为参数相同、种子或折不同的试验。",
    ),
    "errors.scatter": ("Predicted and actual values", "预测值与真实值"),
    "errors.actual": ("actual {target}", "真实值 {target}"),
    "errors.predicted": ("predicted {target}", "预测值 {target}"),
    "errors.histogram": ("Residuals", "残差分布"),
    "errors.residual": ("actual − predicted {target}", "真实值 − 预测值 {target}"),
    "errors.row": ("row", "样本"),
    "errors.thinned": ("Rows left out evenly: {count}.", "均匀略去了 {count} 个样本点。"),
    "errors.tails": (
        "The outermost bars hold everything beyond them.",
        "最外侧的区间包含其外的全部样本。",
    ),
    "column.run": ("Run", "试验"),
    "compare.runs": ("Runs ({count})", "试验（{count}）"),
    "compare.best_of": ("How many of its best", "取最优的几个"),
    "compare.add_best": ("Add its best", "加入最优试验"),
    "compare.type": (
        "Or type them: study/number, study/number",
        "或直接输入：研究/编号, 研究/编号",
    ),
    "compare.type.add": ("Add these", "加入"),
    "compare.take_out": ("Take out", "移除"),
    "compare.take_out.go": ("Take these out", "移除所选"),
    "compare.empty": (
        "Pick two runs or more: from a study's charts or leaderboard, or with the button above.",
        "请选择两个或更多试验：从研究的图表或排行榜中选取，或使用上方按钮。",
    ),
    "compare.none_there": (
        "None of the runs in this link is here. Was it made with another home or server?",
        "链接中的试验都不在这里。它是否来自其他目录或服务器？",
    ),
    "compare.missing": ("Not here: {runs}", "这里没有：{runs}"),
    "compare.unlike": (
        "Other classes, or another task, than the first run: {runs} ({count} in all). Views of "
        "predictions leave them out.",
        "与首个试验的类别或任务不同：{runs}（共 {count} 个）。预测相关的视图不包含它们。",
    ),
    "compare.view.overview": ("Curves", "曲线"),
    "compare.view.metrics": ("Metrics and parameters", "指标与超参数"),
    "compare.view.errors": ("Errors", "错误"),
    "compare.view.probabilities": ("Probabilities", "概率"),
    "compare.view.examples": ("Examples", "样本"),
    "compare.over": ("Over", "横轴"),
    "compare.over.epoch": ("Epochs", "轮次"),
    "compare.over.time": ("Time", "时间"),
    "compare.over.samples": ("Samples seen", "已见样本数"),
    "compare.smoothing": ("Smoothing", "平滑"),
    "compare.log_x": ("Log x", "x 对数"),
    "compare.log_y": ("Log y", "y 对数"),
    "compare.metrics": ("Metrics", "指标"),
    "real": ("Is it real?", "差异真实吗？"),
    "real.reference": ("Compared with", "比较基准"),
    "real.best": ("the best", "最优者"),
    "real.difference": ("Difference", "差值"),
    "real.interval": ("95 % interval", "95 % 区间"),
    "real.p": ("p, corrected", "校正后 p 值"),
    "real.verdict": ("Verdict", "结论"),
    "real.test": ("Test", "检验"),
    "real.how": (
        "Each run against the reference on the same validation rows; p is corrected for the "
        "number of comparisons (Holm).",
        "每个试验与基准在相同的验证样本上比较；p 值按比较次数校正（Holm）。",
    ),
    "real.no_predictions": (
        "Whether a difference is real can be said of runs that kept their predictions; fewer "
        "than two of these did.",
        "只有保存了预测结果的试验才能检验差异是否真实；所选试验中这样的不足两个。",
    ),
    "real.nothing": ("There is nothing to compare.", "没有可比较的内容。"),
    "real.alone": (
        "{run} has {metric} {value}; there is no run to hold it against.",
        "{run} 的 {metric} 为 {value}；没有可与之比较的试验。",
    ),
    "real.clear": (
        "**Yes: {run} is better** ({metric} {value}) than every other run compared ({count}); the "
        "differences are larger than chance.",
        "**是的：{run} 优于**其余全部 {count} 个试验（{metric} {value}）；差异超出随机波动。",
    ),
    "real.some": (
        "**{run} is the best** ({metric} {value}): better for real than {worse} of the others, "
        "but not told apart from {unsure}.",
        "**{run} 最优**（{metric} {value}）：确实优于 {worse} 个试验，"
        "但与另外 {unsure} 个难以区分。",
    ),
    "real.cannot_tell": (
        "**Cannot tell**: {run} has the best {metric} ({value}), but on these rows no other "
        "run ({count} compared) is worse for sure.",
        "**无法断定**：{run} 的 {metric} 最好（{value}），但在这些样本上，其余 {count} 个试验"
        "都不能确定更差。",
    ),
    "real.beaten": (
        "**{run} is beaten** ({metric} {value}): {better} is better for real.",
        "**{run} 被超过**（{metric} {value}）：{better} 确实更好。",
    ),
    "real.best_of": (
        "It was picked as the best of {count} on these very rows, so its value flatters it.",
        "它是在这些样本上从 {count} 个中挑出的最优，因此其数值偏乐观。",
    ),
    "real.apart.rows": (
        "Not comparable, judged on other rows: {count}.",
        "另有 {count} 个在其他样本上评估，不可比较。",
    ),
    "real.apart.numbers": (
        "Not comparable, with predictions that are not numbers: {count}.",
        "另有 {count} 个的预测不是有效数值，不可比较。",
    ),
    "real.apart.metric": (
        "Not comparable, because {metric} cannot be computed of them: {count}.",
        "另有 {count} 个无法计算 {metric}，不可比较。",
    ),
    "verdict.reference": ("reference", "基准"),
    "verdict.better": ("better", "更好"),
    "verdict.worse": ("worse", "更差"),
    "verdict.cannot_tell": ("cannot tell", "无法断定"),
    "verdict.not_comparable": ("not comparable", "不可比较"),
    "metrics.intervals": ("Metrics with 95 % intervals", "指标及 95 % 区间"),
    "metrics.how": (
        "From the predictions of each run's best epoch on the validation split.",
        "根据每个试验最优轮次在验证集上的预测计算。",
    ),
    # What metrics say, by their names
    "metric.accuracy": ("The share of rows that are right.", "预测正确的样本所占比例。"),
    "metric.balanced_accuracy": (
        "The mean over classes of the share that is recognized.",
        "各类别召回率的平均值。",
    ),
    "metric.top5_accuracy": (
        "The share of rows whose class is among the five likeliest.",
        "真实类别位于概率最高的五个之中的样本比例。",
    ),
    "metric.precision": (
        "Of the rows said to be of the class, the share that is.",
        "被预测为该类别的样本中，确属该类别的比例。",
    ),
    "metric.precision_macro": ("Precision, the mean over classes.", "精确率在各类别上的平均值。"),
    "metric.precision_micro": (
        "Of all that was said, the share that is right.",
        "全部预测中正确的比例。",
    ),
    "metric.precision_weighted": (
        "Precision, the mean over classes by their rows.",
        "精确率按各类别样本数加权的平均值。",
    ),
    "metric.recall": (
        "Of the rows of the class, the share that is recognized.",
        "该类别的样本中，被识别出的比例。",
    ),
    "metric.recall_macro": ("Recall, the mean over classes.", "召回率在各类别上的平均值。"),
    "metric.recall_micro": (
        "Of all that there is, the share that is recognized.",
        "全部真实标签中被识别出的比例。",
    ),
    "metric.recall_weighted": (
        "Recall, the mean over classes by their rows.",
        "召回率按各类别样本数加权的平均值。",
    ),
    "metric.f1": (
        "Of the class: high only where precision and recall both are.",
        "该类别的 F1：精确率与召回率都高时才高。",
    ),
    "metric.f1_macro": (
        "F1, the mean over classes: rare ones count as much as others.",
        "F1 在各类别上的平均值：少见的类别同样重要。",
    ),
    "metric.f1_micro": ("F1 of all classes taken together.", "所有类别合并计算的 F1。"),
    "metric.f1_weighted": (
        "F1, the mean over classes by their rows.",
        "F1 按各类别样本数加权的平均值。",
    ),
    "metric.roc_auc": (
        "How often a row of a class is ranked above one of the others; 0.5 is chance.",
        "某类别的样本排在其他样本之前的概率；0.5 相当于随机。",
    ),
    "metric.pr_auc": (
        "The mean precision over all recalls (average precision), for rare classes.",
        "各召回率下的平均精确率，适用于少见的类别。",
    ),
    "metric.mcc": (
        "Correlation of what was said with the truth, from −1 to 1; 0 is chance.",
        "预测与真实类别的相关系数，从 −1 到 1；0 相当于随机。",
    ),
    "metric.log_loss": (
        "How surprised the probabilities are by the truth; being sure and wrong costs most.",
        "概率对真实类别的意外程度；确信却错误时代价最大。",
    ),
    "metric.brier": (
        "The squared distance of probabilities and truth.",
        "概率与真实结果之差的平方。",
    ),
    "metric.ece": (
        "How far the probabilities are from how often they are right, over ten bins.",
        "分十组比较，概率与实际正确率的差距。",
    ),
    "metric.hamming_loss": ("The share of labels that are wrong.", "错误标签所占比例。"),
    "metric.rmse": (
        "The root of the mean squared error, in the target's units.",
        "均方误差的平方根，单位与目标相同。",
    ),
    "metric.mse": ("The mean squared error.", "误差平方的平均值。"),
    "metric.mae": (
        "The mean size of errors, in the target's units.",
        "误差绝对值的平均值，单位与目标相同。",
    ),
    "metric.mape": (
        "The mean size of errors as shares of the target; huge where a target is 0.",
        "误差占目标值比例的平均值；目标为 0 时极大。",
    ),
    "metric.r2": (
        "The share of the target's variance that is explained; 0: as the mean does.",
        "目标方差中被解释的比例；0 相当于只预测平均值。",
    ),
    "differs": ("What differs", "差异项"),
    "differs.nothing": ("These runs have the same settings.", "这些试验的设置完全相同。"),
    "spread": ("Same settings, other seeds", "相同设置，不同随机种子"),
    "probabilities.none": (
        "This view needs predicted probabilities, and these runs kept none.",
        "此视图需要预测概率，而所选试验没有保存。",
    ),
    "probabilities.of": ("Of", "对象"),
    "probabilities.bands": ("95 % bands", "95 % 置信带"),
    "probabilities.threshold": ("Threshold", "阈值"),
    "probabilities.point": (
        "Saying yes from a probability of {threshold} on:",
        "概率不低于 {threshold} 即判为正类：",
    ),
    "probabilities.label": (
        "Of one label, chosen above, there are also calibration and scores.",
        "在上方选择一个标签，可查看其校准曲线与得分分布。",
    ),
    "average.macro": ("all classes, macro average", "全部类别，宏平均"),
    "average.labels.macro": ("all labels, macro average", "全部标签，宏平均"),
    "average.labels.micro": ("all labels, micro average", "全部标签，微平均"),
    "average.micro": ("all classes, micro average", "全部类别，微平均"),
    "errors.none": (
        "This view needs predictions, and these runs kept none.",
        "此视图需要预测结果，而所选试验没有保存。",
    ),
    "errors.label": ("Label", "标签"),
    "errors.runs": ("Runs (up to four)", "试验（最多四个）"),
    "examples.need_two": (
        "Examples need two runs that kept their predictions.",
        "查看样本需要两个保存了预测结果的试验。",
    ),
    "examples.a": ("Run A", "试验 A"),
    "examples.b": ("Run B", "试验 B"),
    "examples.nothing_common": (
        "These two predicted no row in common: their data differ.",
        "这两个试验没有共同预测的样本：它们的数据不同。",
    ),
    "examples.agree": ("These two never disagree.", "这两个试验没有分歧。"),
    "examples.count": (
        "Examples: {count}, the most confident conflicts first.",
        "{count} 个样本，最有把握的分歧在前。",
    ),
    "examples.not_kept": (
        "The examples themselves were not kept (`tracking.examples` in the study file), only "
        "their row numbers.",
        "样本本身未保存（研究文件中的 `tracking.examples`），只有行号。",
    ),
    "examples.not_among": ("not among the kept examples", "不在已保存的样本中"),
    "examples.page": ("Page, of {pages}", "页（共 {pages} 页）"),
    "examples.alt": ("Validation example {id}", "验证样本 {id}"),
    "examples.truth": ("truth: {target}", "真值：{target}"),
    "run.choose": (
        "Choose a run first: click a point in a study's chart, or a row of its leaderboard.",
        "请先选择一个试验：点击研究图表中的点，或排行榜中的一行。",
    ),
    "run.unknown": ("Study {study} has no trial {trial}.", "研究 {study} 没有试验 {trial}。"),
    "run.no_epochs": ("No epoch has been reported yet.", "还没有任何轮次的记录。"),
    "run.predictions": ("Its errors and probabilities", "查看其错误与概率"),
    "run.parameters": ("Settings", "设置"),
    "run.setting": ("Setting", "设置项"),
    "run.searched": ("Searched", "被搜索"),
    "run.lineage": ("Where it came from", "来源"),
    "run.commit": ("Git commit", "Git 提交"),
    "run.dirty": ("with uncommitted changes", "含未提交的修改"),
    "run.no_git": ("no git repository", "无 Git 仓库"),
    "run.data": ("Data", "数据"),
    "run.fingerprint": ("Data fingerprint", "数据指纹"),
    "run.seed": ("Seed", "随机种子"),
    "run.worker": ("Worker", "工作进程"),
    "run.attempts": ("Attempts", "尝试次数"),
    "run.memory": ("Peak memory (MB)", "内存峰值（MB）"),
    "run.note.trained": ("Trained", "训练方式"),
    "run.note.micro_batch": ("Micro-batches", "微批次"),
    "run.note.parallel": ("Devices", "设备"),
    "run.note.products": ("Matrix products", "矩阵乘法"),
    "run.note.compiled": ("Compiled", "编译"),
    "run.mlflow": ("MLflow run", "MLflow run"),
    "run.not_sent": ("not sent yet", "尚未发送"),
    "run.reproduce": ("Train it again and compare every epoch:", "重新训练并逐轮比较："),
    "run.traceback": ("Traceback", "错误堆栈"),
    "run.log": ("What it printed", "输出日志"),
    "run.diff": ("Uncommitted changes", "未提交的修改"),
    "run.packages": ("Package versions", "软件包版本"),
    "run.file": ("Study file", "研究文件"),
    # -- ensembles
    "ensemble.of_these": ("These as an ensemble", "将这些试验集成"),
    "ensemble.of_best": (
        "What would its best {count} be together?",
        "最优的 {count} 个合在一起会怎样？",
    ),
    "confirmed": ("What the best trials are worth", "最优试验的真实水平"),
    "confirmed.seeds": (
        "Trained anew on {seeds} fresh seeds: {metric}, with 95 % intervals.",
        "用 {seeds} 个新随机种子重新训练：{metric}，附 95 % 区间。",
    ),
    "confirmed.searched": ("in the search", "搜索时"),
    "confirmed.fresh": ("on fresh seeds", "新种子"),
    "confirmed.each": ("each seed", "每个种子"),
    "confirmed.luck": (
        "The value of trial {trial} in the search was better than its interval: partly luck.",
        "试验 {trial} 搜索时的值优于其区间：部分是运气。",
    ),
    "confirmed.test": (
        "On the test split, {rows} rows that no choice was made by, with 95 % intervals.",
        "在测试集上（{rows} 行，未参与任何选择），附 95 % 区间。",
    ),
    "confirmed.looks": (
        "The test split has been opened {looks} times; what was chosen after the first time may "
        "owe something to it.",
        "测试集已被查看 {looks} 次；首次之后所做的选择可能受其影响。",
    ),
    "ensemble.open": ("Ensembles of this study ({count})", "该研究的集成（{count}）"),
    "ensemble.choose": (
        "Pick two runs or more with the button above, or open the page of a study.",
        "请用上方按钮选择两个或更多试验，或打开某个研究的页面。",
    ),
    "ensemble.need_two": (
        "An ensemble needs two runs that kept their predictions.",
        "集成至少需要两个保存了预测结果的试验。",
    ),
    "ensemble.none": (
        "No ensemble of this study has been recorded yet. This makes one, in seconds:",
        "该研究还没有记录过集成。以下命令几秒内即可生成：",
    ),
    "ensemble.recorded": (
        "{members} of {trials} trials, judged on {rows} validation rows, each predicted by an "
        "ensemble that was made without its part of them ({folds} parts).",
        "由 {trials} 个试验中的 {members} 个组成；在 {rows} 个验证样本上评估，"
        "每个样本由未使用其所在折的集成预测（{folds} 折）。",
    ),
    "ensemble.computed": (
        "{method}{calibrated}: {members} of {runs} runs, judged on {rows} validation rows, each "
        "predicted by an ensemble that was made without its part of them ({folds} parts).",
        "{method}{calibrated}：由 {runs} 个试验中的 {members} 个组成；在 {rows} 个验证样本上评估，"
        "每个样本由未使用其所在折的集成预测（{folds} 折）。",
    ),
    "ensemble.left_out": (
        "Left out, with predictions of other rows or of no numbers: {count}.",
        "另有 {count} 个因预测的样本不同或无效而未纳入。",
    ),
    "ensemble.not_recorded": (
        "Computed just now and not recorded: the command hpo ensemble records one.",
        "刚刚即时计算，未作记录；命令 hpo ensemble 可记录一个集成。",
    ),
    "ensemble.building": ("Combining {count} runs …", "正在集成 {count} 个试验……"),
    "ensemble.judged_by": ("Judged by", "评估指标"),
    "ensemble.calibrated": (", calibrated", "（已校准）"),
    "ensemble.method.greedy": ("greedy selection", "贪心选择"),
    "ensemble.method.cma": ("weights by CMA-ES", "CMA-ES 权重"),
    "ensemble.method.stack": ("stacking", "堆叠"),
    "ensemble.method.top": ("mean of the best", "最优若干的均值"),
    "ensemble.verdict.better": (
        "**Better than one run**: {metric} {value} against {single} of the best alone; the "
        "difference {gain} {interval} is more than chance (p {p}). Is it worth running all of "
        "them?",
        "**优于单个试验**：{metric} 为 {value}，单个最优为 {single}；增益 {gain} {interval} "
        "超出随机波动（p {p}）。是否值得运行全部成员？",
    ),
    "ensemble.verdict.worse": (
        "**Worse than one run**: {metric} {value} against {single} of the best alone ({gain} "
        "{interval}, p {p}). Use that one.",
        "**不如单个试验**：{metric} 为 {value}，单个最优为 {single}（{gain} {interval}，p {p}）。"
        "请使用后者。",
    ),
    "ensemble.verdict.cannot_tell": (
        "**Cannot tell**: {metric} {value} against {single} of the best alone; the difference "
        "{gain} {interval} may be chance (p {p}). One run is as good, and cheaper.",
        "**无法断定**：{metric} 为 {value}，单个最优为 {single}；增益 {gain} {interval} "
        "可能只是随机波动（p {p}）。单个试验同样好且更省。",
    ),
    "ensemble.against.single": ("best run alone", "单个最优"),
    "ensemble.against.calibrated": ("the same, calibrated", "同上，已校准"),
    "ensemble.worth.how": (
        "Like the ensemble, the best run alone is chosen without the rows it is judged on. A run "
        "that is named was chosen on these very rows, which flatters it.",
        "与集成一样，单个最优在评估样本之外选出。标有名称的试验则是在这些样本上选出的，"
        "数值偏乐观。",
    ),
    "ensemble.members": ("Members", "成员"),
    "ensemble.members.how": (
        "Choose rows to open or compare these runs.",
        "勾选行即可打开或对比这些试验。",
    ),
    "ensemble.weights": ("Members and their weights", "成员及其权重"),
    "ensemble.weight": ("Weight", "权重"),
    "ensemble.temperature": ("Temperature", "温度"),
    "ensemble.more_members": (
        "Lighter members, not drawn: {count}.",
        "另有 {count} 个较轻的成员未画出。",
    ),
    "ensemble.sizes": ("Gain by size", "规模与增益"),
    "ensemble.sizes.how": (
        "Of the heaviest members alone, on rows they were not weighed by. Often few give most of "
        "the gain.",
        "仅用最重的若干成员，在未用于加权的样本上评估。往往少数成员就带来大部分增益。",
    ),
    "ensemble.heaviest": ("ensemble of the heaviest", "最重成员的集成"),
    "ensemble.single": ("best run alone", "单个最优"),
    "ensemble.diversity": ("Members in pairs: {measure}", "成员两两比较：{measure}"),
    "ensemble.one_member": (
        "One member alone: there is no pair to compare.",
        "只有一个成员，无从两两比较。",
    ),
    "ensemble.measure": ("How differently they err", "错误的差异度量"),
    "ensemble.measure.disagreement": ("disagreement", "不一致率"),
    "ensemble.measure.disagreement.how": (
        "The share of rows on which just one of two is right: more is better.",
        "两者中仅一个正确的样本占比：越大越好。",
    ),
    "ensemble.measure.double_fault": ("both wrong", "同时出错"),
    "ensemble.measure.double_fault.how": (
        "The share of rows on which both are wrong, where no mean helps: less is better.",
        "两者同时出错的样本占比，取平均也无济于事：越小越好。",
    ),
    "ensemble.measure.q": ("Q statistic", "Q 统计量"),
    "ensemble.measure.q.how": (
        "1: right and wrong together; 0: independently; below: where one errs the other does not.",
        "1：同对同错；0：相互独立；小于 0：一个出错时另一个往往正确。",
    ),
    "ensemble.measure.error_correlation": ("correlation of errors", "误差相关系数"),
    "ensemble.measure.error_correlation.how": (
        "Of the members' errors over rows: less is better.",
        "各成员在样本上误差的相关系数：越小越好。",
    ),
    "ensemble.cost": ("{metric} against cost", "{metric} 与开销"),
    "ensemble.cost.of": ("Cost", "开销"),
    "ensemble.cost.seconds": ("training time (s)", "训练时间（秒）"),
    "ensemble.cost.how": (
        "An ensemble costs what its members cost together.",
        "集成的开销为其全部成员之和。",
    ),
    "ensemble.is_member": ("members alone", "成员单独"),
    "ensemble.not_member": ("other runs", "其他试验"),
    "ensemble.no_cost": (
        "What these runs cost is not recorded.",
        "没有记录这些试验的开销。",
    ),
    # -- the report
    "report.title": ("{study}: report of a study", "{study}：研究报告"),
    "report.written": (
        "Report of a study, written {when} by hpo {version}",
        "研究报告，由 hpo {version} 于 {when} 生成",
    ),
    "report.running": (
        "The study was still running when this was written: it shows how things stood then.",
        "生成本报告时研究仍在运行：内容为当时的状态。",
    ),
    "report.contents": ("Contents", "目录"),
    "report.no_script": (
        "The charts need JavaScript; the words and tables do not.",
        "图表需要 JavaScript；文字和表格不需要。",
    ),
    "report.picture": ("Save as PNG", "保存为 PNG"),
    "report.answer": ("The answer", "结论"),
    "report.interval": ("95 % interval {interval}", "95 % 区间 {interval}"),
    "report.no_complete": (
        "No trial is complete yet, so there is no best one.",
        "还没有已完成的试验，因此尚无最优试验。",
    ),
    "report.only_one": (
        "Trial {trial} is the only complete one; there is nothing to hold it against.",
        "试验 {trial} 是唯一已完成的试验，没有可比较的对象。",
    ),
    "report.no_test": (
        "Trial {trial} has the best value. Whether that is more than chance cannot be tested: the "
        "best trials kept no predictions.",
        "试验 {trial} 的结果最优。最优的几个试验没有保存预测结果，无法检验这是否超出随机波动。",
    ),
    "report.compared": (
        "The best {count}, each held against the best",
        "前 {count} 名与最优者的比较",
    ),
    "report.parameters": ("Parameters of trial {trial}", "试验 {trial} 的超参数"),
    "report.value": ("Value", "值"),
    "report.parameter": ("Parameter", "超参数"),
    "report.range": ("Searched", "搜索范围"),
    "report.log": ("log scale", "对数刻度"),
    "report.when": ("only with {when}", "仅当 {when}"),
    "report.metrics": ("Metrics of trial {trial}", "试验 {trial} 的指标"),
    "report.metrics.how": (
        "At its best epoch. Intervals are from its predictions on {rows} validation rows.",
        "取最优轮次。区间根据 {rows} 个验证样本上的预测计算。",
    ),
    "report.metrics.folds": (
        "With folds, what was recorded is the mean over them, and the intervals are of all "
        "their rows.",
        "使用多折时，记录值为各折均值，区间则基于全部折的样本。",
    ),
    "report.thinned": (
        "Drawn are {shown} of {of} trials, evenly by rank.",
        "图中为 {of} 个试验中按名次均匀选取的 {shown} 个。",
    ),
    "report.front": (
        "The trials that no other beats in every objective",
        "没有其他试验在所有目标上更优的试验",
    ),
    "report.history": ("How it went", "过程"),
    "report.lacking": (
        "The curves of {count} trials could not be fetched from MLflow.",
        "未能从 MLflow 获取 {count} 个试验的曲线。",
    ),
    "report.predictions": ("Predictions of the best {count}", "前 {count} 名的预测"),
    "report.which": ("Which", "试验编号"),
    "report.shown": (
        "{shown} of {of} complete trials, the best first",
        "共 {of} 个已完成的试验，显示最优的 {shown} 个",
    ),
    "report.csv": ("All {count} trials as CSV", "全部 {count} 个试验（CSV）"),
    "report.since": ("since {when}", "始于 {when}"),
    "report.on": ("{device}, workers: {workers}", "{device}，工作进程：{workers}"),
    "report.began": ("Began", "开始时间"),
    "report.objective": ("Objective", "目标"),
    "report.budget": ("Budget", "预算"),
    "report.budget.trials": ("trials: {count}", "{count} 个试验"),
    "report.budget.epochs": ("epochs: {count}", "{count} 轮"),
    "report.budget.device": ("{hours} device hours", "{hours} 设备小时"),
    "report.budget.target": ("until {value} is reached", "达到 {value} 为止"),
    "report.budget.patience": (
        "until {count} trials bring nothing better",
        "连续 {count} 个试验无改进为止",
    ),
    "report.sampler": ("Sampler", "采样器"),
    "report.pruner": ("Pruner", "剪枝器"),
    "report.device": ("Device", "设备"),
    "report.workers": ("Workers", "工作进程数"),
    "report.rows": (
        "{rows} rows: {train} for training, {validation} for validation, {test} set apart for "
        "the test",
        "{rows} 个样本：训练 {train}，验证 {validation}，测试（保留）{test}",
    ),
    "report.python": ("Python", "Python"),
    "study.busy": (
        "workers: {workers}, {share:.0%} busy",
        "{workers} 个工作进程，忙碌 {share:.0%}",
    ),
    "study.behind": (
        "MLflow lacks the last {count} records of this study. Send them:",
        "MLflow 缺少该研究最近的 {count} 条记录。发送命令：",
    ),
    "run.files": ("Files", "文件"),
}
