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

function isSame(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName
    && (one.nodeType !== Node.ELEMENT_NODE || one.dataset.key === other.dataset.key);
}

// Make the children of one element those of another, with as little done as possible: entries of lists by their key.
function patch(shown, drawn) {
  let place = shown.firstChild;
  for (const wanted of [...drawn.childNodes]) {
    let found = place;
    while (found && !isSame(found, wanted)) found = found.nextSibling;
    if (!found) {
      shown.insertBefore(wanted, place);
      continue;
    }
    const isKeyed = wanted.nodeType === Node.ELEMENT_NODE && wanted.dataset.key !== undefined;
    if (isKeyed && found !== place) {
      // What stands before it is gone, or comes later.
      shown.insertBefore(found, place);
    } else {
      while (place !== found) {
        const gone = place;
        place = place.nextSibling;
        gone.remove();
      }
      place = found.nextSibling;
    }
    update(found, wanted);
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

function update(shown, wanted) {
  if (shown.nodeType !== Node.ELEMENT_NODE) {
    if (shown.nodeValue !== wanted.nodeValue) shown.nodeValue = wanted.nodeValue;
    return;
  }
  for (const { name } of [...shown.attributes]) {
    // A button that waits for its answer stays as it is until then.
    if (!wanted.hasAttribute(name) && name !== "disabled") shown.removeAttribute(name);
  }
  for (const { name, value } of [...wanted.attributes]) {
    if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  }
  patch(shown, wanted);
}

function show(sections) {
  for (const [name, text] of Object.entries(sections)) {
    const section = document.getElementById(`section-${name}`);
    if (!section) continue;
    const drawn = document.createElement("template");
    drawn.innerHTML = text;
    localize(drawn.content);
    patch(section, drawn.content);
  }
}

function follow(url) {
  const source = new EventSource(url);
  source.addEventListener("open", () => say(connection.dataset.live, "live"));
  source.addEventListener("sections", (event) => show(JSON.parse(event.data)));
  source.addEventListener("error", async () => {
    say(connection.dataset.lost, "lost");
    if (source.readyState !== EventSource.CLOSED) return;
    setTimeout(() => follow(url), RETRY_MILLISECONDS);
    // A key that is none any more is asked for anew.
    const page = await fetch(location.href, { method: "HEAD", headers: { Accept: "text/html" } }).catch(() => null);
    if (page && page.status === 401) location.reload();
  });
}

async function act(button) {
  if (button.dataset.sure && !confirm(button.dataset.sure)) return;
  button.disabled = true;
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
  button.disabled = false;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-method]");
  if (button) act(button);
});

localize(document);
if (document.body.dataset.events) follow(document.body.dataset.events);
else if (connection) connection.hidden = true;
