"""Grids: many experiments that differ in a few values.

::

    grid          one grid, and its combinations
    naming        what each experiment is called
    search        a base configuration and the grids over it
"""

from asyncckpt.launch.grids.grid import ParameterGrid
from asyncckpt.launch.grids.naming import NamingStrategy
from asyncckpt.launch.grids.search import Combination, ParameterGridSearch

__all__ = ["Combination", "NamingStrategy", "ParameterGrid", "ParameterGridSearch"]
