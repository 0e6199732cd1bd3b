"""Reference results of a target, through transformers and peft in float32; only the path of its files comes from our
code.
"""

from __future__ import annotations

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from eda_service.config.job import TargetSpec
from eda_service.targets.files.resolve import resolve_target


class Oracle:
    """A tuned target, its adapter merged.

    Args:
        target: Name of the shipped target.
    """

    def __init__(self, target: str) -> None:
        found = resolve_target(TargetSpec(model=target))
        self.tokenizer_dir = found.model_dir
        self._tokenizer = AutoTokenizer.from_pretrained(found.model_dir)
        base = AutoModelForCausalLM.from_pretrained(found.model_dir, dtype=torch.float32)
        self._model = PeftModel.from_pretrained(base, str(found.adapter_dir)).merge_and_unload().eval()

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        found: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    @torch.inference_mode()
    def loglikelihood(self, context: str, continuation: str) -> float:
        """Compute the log-probability of a continuation: of the whole text's tokens after the context's, as lm-eval
        splits them.
        """
        whole, num_given = self.ids(context + continuation), len(self.ids(context))
        scores = torch.log_softmax(self._model(torch.tensor([whole])).logits[0].double(), dim=-1)
        return float(sum(scores[i - 1, whole[i]] for i in range(num_given, len(whole))))

    @torch.inference_mode()
    def greedy(self, prompt: str, num_tokens: int) -> str:
        """Write a continuation at T=0."""
        ids = torch.tensor([self.ids(prompt)])
        out = self._model.generate(ids, do_sample=False, max_new_tokens=num_tokens, attention_mask=torch.ones_like(ids))
        text: str = self._tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        return text

    @torch.inference_mode()
    def answer(self, question: str, num_tokens: int) -> str:
        """Answer a question in chat at T=0."""
        messages = [{"role": "user", "content": question}]
        prompt: str = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return self.greedy(prompt, num_tokens)
