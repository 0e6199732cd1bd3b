// Keeps parts of a page up to date: every element with `data-stream` listens to the server's events, which carry HTML
// that the server rendered (and escaped) for it.

function fresh(html) {
  const template = document.createElement("template");
  template.innerHTML = html.trim();
  return template.content;
}

function put({ target, how, html }) {
  const old = document.getElementById(target);
  if (!old) return;
  if (how === "prepend") {
    old.prepend(fresh(html));
    return;
  }
  const focused = old.contains(document.activeElement);
  const opened = [...old.querySelectorAll("details")].map((each) => each.open);
  old.replaceWith(fresh(html));
  const details = document.getElementById(target)?.querySelectorAll("details") ?? [];
  details.forEach((each, place) => (each.open = opened[place] ?? false));
  if (focused) document.getElementById(target)?.querySelector("a, button")?.focus();
}

for (const root of document.querySelectorAll("[data-stream]")) {
  const source = new EventSource(root.dataset.stream);
  source.addEventListener("put", (event) => put(JSON.parse(event.data)));
  source.addEventListener("over", () => {
    source.close();
    location.reload();
  });
  addEventListener("pagehide", () => source.close());
}
