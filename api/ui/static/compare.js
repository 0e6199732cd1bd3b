// Says above two answers whose they are and, once both are there, whether the texts are the same; marks where they part.

const form = document.getElementById("question");
const same = document.getElementById("same");
const panes = ["left", "right"].map((side) => document.getElementById(side));

function name(side) {
  const select = document.getElementById(`${side}-model`);
  const model = document.getElementById(side).querySelector("[data-model]");
  if (select) model.textContent = select.value ? select.selectedOptions[0].textContent : "";
}

function text(pane) {
  return pane.querySelector("[data-text]");
}

// Length of the beginning that two texts share, in whole characters.
function shared(one, other) {
  const [first, second] = [[...one], [...other]];
  let place = 0;
  while (place < first.length && first[place] === second[place]) place += 1;
  return first.slice(0, place).join("").length;
}

// Marks the word that begins at, or goes over, a place of a text; behind its end, an empty mark.
function mark(root, place) {
  let begin = 0;
  for (const span of root.children) {
    const content = span.textContent;
    if (place < begin + content.length) {
      const at = place - begin;
      const word = content.slice(at).match(/^\s*\S*/)[0] || content.slice(at);
      const marked = document.createElement("mark");
      marked.textContent = word;
      span.replaceChildren(content.slice(0, at), marked, content.slice(at + word.length));
      return;
    }
    begin += content.length;
  }
  const end = document.createElement("mark");
  end.className = "end";
  end.title = "the text ends here";
  root.append(end);
}

function compare() {
  const [one, other] = panes.map((pane) => text(pane).textContent);
  same.hidden = false;
  if (one === other) {
    same.textContent = `Both texts are the same, ${[...one].length} characters.`;
    return;
  }
  const place = shared(one, other);
  for (const pane of panes) mark(text(pane), place);
  same.textContent = `The texts differ from character ${[...one.slice(0, place)].length + 1} on; marked is where they part.`;
}

for (const side of ["left", "right"]) {
  document.getElementById(`${side}-model`)?.addEventListener("change", () => name(side));
  if (form) name(side);
}
form?.addEventListener("asked", () => {
  same.hidden = true;
  same.textContent = "";
  for (const side of ["left", "right"]) name(side);
});
form?.addEventListener("answered", (event) => event.detail === 2 && compare());
