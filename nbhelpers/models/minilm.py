"""all-MiniLM-L6-v2: sentence embeddings whose cosine measures semantic similarity.

Wang et al. 2020, arXiv 2002.10957 (MiniLM); Reimers and Gurevych 2019, arXiv 1908.10084 (mean pooling). Read with
``tokenizers`` and torch's own Transformer, because importing ``transformers`` costs several seconds; the tests
compare the two.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.lazy import needs

LONGEST = 128  # tokens of a sentence, as in training
BATCH = 64


class SentenceEncoder:
    """Sentence embeddings of a BERT with mean pooling.

    Example:
        >>> encoder = SentenceEncoder.from_files(weights, config, tokenizer)
        >>> encoder(["a cat", "a kitten"]).shape
        (2, 384)

    Args:
        bert: maps token ids ``(b, t)`` and a mask ``(b, t) bool``, True at real tokens, to states ``(b, t, d)``.
        tokenizer: a ``tokenizers.Tokenizer``.
        dim: ``d``.
    """

    def __init__(self, bert, tokenizer, dim: int):
        self.bert, self.tokenizer, self.dim = bert, tokenizer, dim

    def __call__(self, sentences: Sequence[str]) -> Float32[np.ndarray, "n d"]:
        """A unit vector per sentence."""
        import torch

        codes = self.tokenizer.encode_batch(list(sentences))
        out = np.zeros((len(codes), self.dim), np.float32)
        order = np.argsort([len(code) for code in codes], kind="stable")  # equal lengths together: less padding
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            length = max(len(codes[i]) for i in chosen)
            ids = torch.zeros(len(chosen), length, dtype=torch.long)
            real = torch.zeros(len(chosen), length, dtype=torch.bool)
            for row, i in enumerate(chosen):
                ids[row, : len(codes[i])] = torch.tensor(codes[i].ids)
                real[row, : len(codes[i])] = True
            with torch.inference_mode():
                states = self.bert(ids, real) * real[..., None]
            mean = states.sum(1) / real.sum(1, keepdim=True)
            out[chosen] = torch.nn.functional.normalize(mean, dim=1).numpy()
        return out

    @classmethod
    def from_files(cls, weights: Path, config: Path, tokenizer: Path) -> SentenceEncoder:
        """Read ``model.safetensors``, ``config.json`` and ``tokenizer.json`` as transformers writes them.

        Raises:
            NbHelpersError: a file that cannot be read, or another architecture.
        """
        needs("text", "tokenizers")
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        try:
            settings = json.loads(config.read_text())
            tokens = Tokenizer.from_file(str(tokenizer))
            bert = build_bert(settings, load_file(weights))
        except Exception as error:  # tokenizers and safetensors raise bare exceptions
            raise NbHelpersError(
                "the sentence encoder cannot be loaded",
                given=f"{weights.parent}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                expected="config.json, model.safetensors and tokenizer.json of a BERT",
                do="nbhelpers fetch conse-lite",
            ) from error
        tokens.no_padding()
        tokens.enable_truncation(min(LONGEST, settings["max_position_embeddings"]))
        return cls(bert, tokens, settings["hidden_size"])


def build_bert(config: dict, weights: dict[str, np.ndarray]):
    """A torch module that computes what ``transformers.BertModel`` does with these weights, dropout off.

    Args:
        config: of the published ``config.json``; ``hidden_act`` must be ``"gelu"``.
        weights: the published names, such as ``encoder.layer.0.attention.self.query.weight``.

    Raises:
        KeyError: a weight is missing.
        ValueError: another activation.
        RuntimeError: a weight of another shape.
    """
    import torch
    from torch import nn

    if config["hidden_act"] != "gelu":
        raise ValueError(f"activation {config['hidden_act']}")
    dim, eps = config["hidden_size"], config["layer_norm_eps"]
    tensors = {name: torch.from_numpy(np.array(array, np.float32)) for name, array in weights.items()}

    class Bert(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(
                dim,
                config["num_attention_heads"],
                config["intermediate_size"],
                dropout=0.0,
                activation="gelu",
                layer_norm_eps=eps,
                batch_first=True,
            )
            self.encoder = nn.TransformerEncoder(layer, config["num_hidden_layers"], enable_nested_tensor=False)
            self.words = nn.Embedding(config["vocab_size"], dim)
            self.positions = nn.Embedding(config["max_position_embeddings"], dim)
            self.kinds = nn.Embedding(config["type_vocab_size"], dim)
            self.norm = nn.LayerNorm(dim, eps=eps)

        def forward(self, ids, real):
            positions = torch.arange(ids.shape[1])
            x = self.norm(self.words(ids) + self.positions(positions) + self.kinds.weight[0])
            return self.encoder(x, src_key_padding_mask=~real)

    bert = Bert()
    bert.load_state_dict(_renamed(tensors, config["num_hidden_layers"]))
    return bert.eval().requires_grad_(False)


def _renamed(tensors: dict, layers: int) -> dict:
    """Published names -> names of torch's Transformer, the three attention inputs stacked into one."""
    import torch

    out = {
        "words.weight": tensors["embeddings.word_embeddings.weight"],
        "positions.weight": tensors["embeddings.position_embeddings.weight"],
        "kinds.weight": tensors["embeddings.token_type_embeddings.weight"],
    }
    pairs = [("norm", "embeddings.LayerNorm")]
    for index in range(layers):
        new, old = f"encoder.layers.{index}.", f"encoder.layer.{index}."
        for part in ("weight", "bias"):
            inputs = [tensors[f"{old}attention.self.{name}.{part}"] for name in ("query", "key", "value")]
            out[f"{new}self_attn.in_proj_{part}"] = torch.cat(inputs)
        pairs += [
            (f"{new}self_attn.out_proj", f"{old}attention.output.dense"),
            (f"{new}norm1", f"{old}attention.output.LayerNorm"),
            (f"{new}linear1", f"{old}intermediate.dense"),
            (f"{new}linear2", f"{old}output.dense"),
            (f"{new}norm2", f"{old}output.LayerNorm"),
        ]
    out |= {f"{new}.{part}": tensors[f"{old}.{part}"] for new, old in pairs for part in ("weight", "bias")}
    return out
