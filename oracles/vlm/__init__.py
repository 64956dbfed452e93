"""Vision-language models as raters."""

from prefenvs.oracles.vlm.budget import Budget
from prefenvs.oracles.vlm.client import check_server
from prefenvs.oracles.vlm.config import VLMConfig
from prefenvs.oracles.vlm.oracle import VLMOracle
from prefenvs.oracles.vlm.pictures import View
from prefenvs.oracles.vlm.prompts import copy_prompts
from prefenvs.oracles.vlm.verdicts import Judgement, Opinion

__all__ = ["Budget", "Judgement", "Opinion", "VLMConfig", "VLMOracle", "View", "check_server", "copy_prompts"]
