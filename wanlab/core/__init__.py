"""Floor 0: sites, the clock, selections, edits, records, ledgers and traces."""

from wanlab.core import clock
from wanlab.core.adapt import adapt
from wanlab.core.adapted import Adapted
from wanlab.core.budget import GIB, BudgetError
from wanlab.core.capture import Capture
from wanlab.core.checkpoint import checkpointed
from wanlab.core.clock import Plan, Tick
from wanlab.core.dictionary import Dictionary, DictionaryError, Feature
from wanlab.core.edit import KINDS, Edit, EditError, Event, NotSerialisable, edit_from_dict
from wanlab.core.entry import Entry
from wanlab.core.frames import CutFrames, FreezeFrame, LowPassFrames, ReverseFrames, ShuffleFrames
from wanlab.core.gradient import GradientError
from wanlab.core.grid import Grid
from wanlab.core.index import PositionError
from wanlab.core.item import AdaptError
from wanlab.core.label import RecordError
from wanlab.core.lazy import Lazy
from wanlab.core.ledger import Ledger, LedgerError
from wanlab.core.listener import NonFiniteError
from wanlab.core.moments import CovarianceStat, MeanStat
from wanlab.core.nearest import nearest, suggestion
from wanlab.core.pattern import PatternError
from wanlab.core.place import Place
from wanlab.core.quantiles import QuantileStat
from wanlab.core.record import Record
from wanlab.core.sample import SampleStat
from wanlab.core.select import Select, SelectionError
from wanlab.core.site import Hookable, Site, Sites, UnknownSite, sites_of
from wanlab.core.stat import Moment, Statistic, StatisticError
from wanlab.core.tap import Probe
from wanlab.core.top import TopStat
from wanlab.core.trace import Trace, trace
from wanlab.core.values import Bypass, Identity, Mean, Noise, Patch, Replace, Resample, Scale, Steer, Zero

__all__ = [
    "Hookable", "Site", "Sites", "UnknownSite", "sites_of", "Probe", "Lazy", "Grid",
    "adapt", "Adapted", "Place", "AdaptError",
    "clock", "Tick", "Plan",
    "Select", "SelectionError", "PatternError", "PositionError", "nearest", "suggestion",
    "Edit", "EditError", "NotSerialisable", "Event", "KINDS", "edit_from_dict",
    "Identity", "Zero", "Mean", "Resample", "Noise", "Scale", "Steer", "Patch", "Bypass", "Replace",
    "Dictionary", "DictionaryError", "Feature",
    "FreezeFrame", "ShuffleFrames", "ReverseFrames", "LowPassFrames", "CutFrames",
    "Capture", "Record", "Entry", "RecordError", "BudgetError", "GIB",
    "Statistic", "StatisticError", "Moment", "MeanStat", "CovarianceStat", "QuantileStat", "TopStat", "SampleStat",
    "Ledger", "LedgerError", "Trace", "trace", "NonFiniteError", "GradientError", "checkpointed",
]
