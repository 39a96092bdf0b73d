// Keeps a page up to date: the server draws its sections, and sends those that changed as server-sent events. What is
// on the page already stays where it is, so that focus, selection and scrolling are nobody's loss.
"use strict";

const RETRY_MILLISECONDS = 3000;
const connection = document.getElementById("connection");

function say(text, state) {
  if (connection.textContent !== text) connection.textContent = text;
  connection.className = state;
}

function tell(text) {
  document.getElementById("told").textContent = text;
}

// Times in the reader's own zone; the date only where it is not today's.
function localize(root) {
  for (const time of root.querySelectorAll("time")) {
    const when = new Date(time.dateTime);
    const isToday = when.toDateString() === new Date().toDateString();
    time.title = when.toLocaleString();
    time.textContent = isToday ? when.toLocaleTimeString() : when.toLocaleString();
  }
}

function keyOf(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.dataset.key : undefined;
}

function isSame(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && keyOf(one) === keyOf(other);
}

// Make the children of one element those of another, with as little done as possible: entries of lists by their key.
function patch(shown, drawn) {
  const wanted = [...drawn.childNodes];
  const keys = new Set(wanted.map(keyOf));
  for (const one of [...shown.childNodes]) {
    if (!keys.has(keyOf(one)) && keyOf(one) !== undefined) one.remove();
  }
  let place = shown.firstChild;
  for (const one of wanted) {
    const found = find(one, place);
    if (!found) {
      shown.insertBefore(one, place);
      continue;
    }
    // What is left before it; an entry there has its place later.
    while (place !== found && keyOf(place) === undefined) place = drop(place);
    if (place === found) place = found.nextSibling;
    else shown.insertBefore(found, place);
    update(found, one);
  }
  while (place) place = drop(place);
}

// What is as `wanted` from a place on; for what is no entry of a list not beyond the next entry, which would go.
function find(wanted, place) {
  let found = place;
  while (found && !isSame(found, wanted)) {
    found = keyOf(wanted) === undefined && keyOf(found) !== undefined ? null : found.nextSibling;
  }
  return found;
}

// Remove a node. Returns the one after it.
function drop(node) {
  const next = node.nextSibling;
  node.remove();
  return next;
}

function update(shown, wanted) {
  if (shown.nodeType !== Node.ELEMENT_NODE) {
    if (shown.nodeValue !== wanted.nodeValue) shown.nodeValue = wanted.nodeValue;
    return;
  }
  for (const { name } of [...shown.attributes]) {
    // A button that waits for its answer stays as it is until then.
    if (!wanted.hasAttribute(name) && name !== "aria-disabled") shown.removeAttribute(name);
  }
  for (const { name, value } of [...wanted.attributes]) {
    if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  }
  patch(shown, wanted);
}

function show(sections) {
  const focused = document.activeElement;
  for (const [name, text] of Object.entries(sections)) {
    const section = document.getElementById(`section-${name}`);
    if (!section) continue;
    const drawn = document.createElement("template");
    drawn.innerHTML = text;
    localize(drawn.content);
    patch(section, drawn.content);
  }
  // It was moved, which takes the focus from it.
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

// A page that nobody sees keeps no connection: browsers have six for all pages of a gateway together.
let source = null;

function follow() {
  if (source || document.hidden) return;
  const opened = source = new EventSource(document.body.dataset.events);
  opened.addEventListener("open", () => say(connection.dataset.live, "live"));
  opened.addEventListener("sections", (event) => show(JSON.parse(event.data)));
  opened.addEventListener("error", async () => {
    say(connection.dataset.lost, "lost");
    if (opened.readyState !== EventSource.CLOSED) return;
    leave();
    setTimeout(follow, RETRY_MILLISECONDS);
    // A key that is none any more is asked for anew.
    const page = await fetch(location.href, { method: "HEAD", headers: { Accept: "text/html" } }).catch(() => null);
    if (page && page.status === 401) location.reload();
  });
}

function leave() {
  if (source) source.close();
  source = null;
}

async function act(button) {
  if (button.ariaDisabled || (button.dataset.sure && !confirm(button.dataset.sure))) return;
  // Not `disabled`, which takes the focus away.
  button.ariaDisabled = "true";
  tell("");
  try {
    const answer = await fetch(button.dataset.url, { method: button.dataset.method });
    if (!answer.ok) {
      const problem = await answer.json().catch(() => ({}));
      tell(problem.error || `The gateway answered ${answer.status}.`);
    }
  } catch {
    tell("The gateway did not answer; try again.");
  }
  button.ariaDisabled = null;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-method]");
  if (button) act(button);
});

localize(document);
if (document.body.dataset.events) {
  document.addEventListener("visibilitychange", () => (document.hidden ? leave() : follow()));
  follow();
} else if (connection) connection.hidden = true;
