"""Whole runs on tiny checkpoints: what they write, what their names mean, and that every road through them is open."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from helpers.runs import QUICK, CommandLine, options, override, prepared, records, value_of
from helpers.runs import go as execute_now
from helpers.tiny import tiny_facts, write_json

import edit_robust
from edit_robust import config
from edit_robust.config import compose, resolved, run_id
from edit_robust.core import Record
from edit_robust.metrics.language import SUCCESS_IF_ANY  # noqa: F401
