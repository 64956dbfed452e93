"""Vision-language models as raters."""

from oracles.vlm.budget import Budget
from oracles.vlm.checking import check_server
from oracles.vlm.config import VLMConfig
from oracles.vlm.oracle import VLMOracle
from oracles.vlm.pictures import View
from oracles.vlm.prompts import copy_prompts
from oracles.vlm.verdicts import Judgement, Opinion

__all__ = ["Budget", "Judgement", "Opinion", "VLMConfig", "VLMOracle", "View", "check_server", "copy_prompts"]
