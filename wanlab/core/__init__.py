"""Floor 0: sites, the clock, selections, edits, records, ledgers and traces."""

from wanlab.core import clock
from wanlab.core.nearest import nearest, suggestion
from wanlab.core.site import Hookable, Site, Sites, UnknownSite, sites_of

__all__ = ["Hookable", "Site", "Sites", "UnknownSite", "clock", "nearest", "sites_of", "suggestion"]
