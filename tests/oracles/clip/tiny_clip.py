"""Write a CLIP of a few thousand random weights, with a tokenizer of single bytes, to a folder."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

SIZE = 32


def write(folder: Path, seed: int = 0) -> Path:
    """Make tokenizer and model; returns the folder."""
    # An end with the number 2 would be taken for the mark of an old file format.
    tokens = ["<pad>", "<s>", "<unk>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 3)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=77
    )
    torch.manual_seed(seed)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
    config = CLIPConfig(
        text_config=small | special | {"vocab_size": len(tokens), "max_position_embeddings": 77},
        vision_config=small | {"image_size": SIZE, "patch_size": 8},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder
