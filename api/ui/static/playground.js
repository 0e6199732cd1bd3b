// Asks one or two deployments and shows their answers as they come, accepted draft tokens marked.

const form = document.getElementById("question");
const told = document.getElementById("told");
const stop = document.getElementById("stop");
let asking = null;

function fact(pane, name, value) {
  pane.querySelector(`[data-fact="${name}"]`).textContent = value;
}

function show(pane, text, spans) {
  for (const span of spans) {
    const last = text.lastElementChild;
    const kind = span.accepted ? "draft" : "own";
    if (last && last.className === kind) last.textContent += span.text;
    else {
      const element = document.createElement("span");
      element.className = kind;
      element.textContent = span.text;
      text.append(element);
    }
  }
}

function measure(pane, chunk, began) {
  const found = chunk.metrics?.speculative_decoding;
  if (found) {
    fact(pane, "length", found.mean_acceptance_length?.toFixed(2) ?? "–");
    fact(pane, "accepted", `${found.num_accepted_draft_tokens} of ${found.num_draft_tokens}`);
  }
  if (chunk.usage) {
    const seconds = (performance.now() - began) / 1000;
    fact(pane, "tokens", chunk.usage.completion_tokens);
    fact(pane, "speed", (chunk.usage.completion_tokens / seconds).toFixed(1));
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part.startsWith("data: ") && part !== "data: [DONE]") yield JSON.parse(part.slice(6));
    }
  }
}

// What is chosen beside a name: the draft that the request is to be answered with, if it is not the deployment's own.
function chosen(side) {
  const option = document.getElementById(`${side}-model`).selectedOptions[0];
  return option?.value ? { model: option.value, ...(option.dataset.draft && { draft: option.dataset.draft }) } : null;
}

async function ask(pane, asked, question, signal) {
  const model = asked.draft ? `${asked.model} (draft ${asked.draft})` : asked.model;
  const text = pane.querySelector("[data-text]");
  text.replaceChildren();
  text.setAttribute("aria-busy", "true");
  for (const name of ["length", "accepted", "tokens", "speed"]) fact(pane, name, "–");
  const began = performance.now();
  try {
    const answer = await fetch("/ui/playground/answer", {
      method: "POST",
      headers: { "content-type": "application/json", "x-form-token": form.dataset.token },
      body: JSON.stringify({ ...asked, ...question }),
      signal,
    });
    if (!answer.ok) throw new Error((await answer.json()).error.message);
    for await (const chunk of events(answer.body)) {
      if (chunk.error) throw new Error(chunk.error.message);
      for (const choice of chunk.choices) show(pane, text, choice.spans ?? []);
      measure(pane, chunk, began);
    }
    const length = pane.querySelector('[data-fact="length"]').textContent;
    const tokens = pane.querySelector('[data-fact="tokens"]').textContent;
    return { done: true, told: `${model}: ${tokens} tokens, acceptance length ${length}.` };
  } catch (error) {
    return { done: false, told: signal.aborted ? `${model}: stopped.` : `${model}: ${error.message}` };
  } finally {
    text.setAttribute("aria-busy", "false");
  }
}

async function submit(event) {
  event.preventDefault();
  asking?.abort();
  const mine = (asking = new AbortController());
  const question = {
    prompt: document.getElementById("prompt").value,
    temperature: Number(document.getElementById("temperature").value),
    max_tokens: Number(document.getElementById("max-tokens").value),
  };
  const wanted = ["left", "right"]
    .map((side) => [document.getElementById(side), chosen(side)])
    .filter(([, asked]) => asked);
  form.dispatchEvent(new CustomEvent("asked"));
  stop.disabled = false;
  told.textContent = "Asking…";
  const said = [];
  if (document.getElementById("in-turn").checked) {
    for (const [pane, asked] of wanted) {
      if (!mine.signal.aborted) said.push(await ask(pane, asked, question, mine.signal));
    }
  } else said.push(...(await Promise.all(wanted.map(([pane, asked]) => ask(pane, asked, question, mine.signal)))));
  if (mine === asking) {
    told.textContent = said.map((each) => each.told).join(" ");
    form.dispatchEvent(new CustomEvent("answered", { detail: said.filter((each) => each.done).length }));
    stop.disabled = true;
  }
}

form?.addEventListener("submit", submit);
stop?.addEventListener("click", () => asking?.abort());
