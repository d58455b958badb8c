"use strict";
// The page of `ffhqref review`. Every text is set as text, never as markup; the server keeps everything.
const token = document.querySelector('meta[name="token"]').content;
const element = (id) => document.getElementById(id);
let state = { order: [] };
let current = null; // key of the question that is shown
let shown = null; // the question itself
let selected = new Set(); // numbers of photos
let waiting = Promise.resolve();

async function ask(path, body) {
  const options = { headers: { "X-Token": token } };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The review server has stopped. What you answered is kept: run `ffhqref review` again.");
  }
  const found = await answer.json();
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function make(tag, text, className) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function photoItem(photo, number, first) {
  const item = make("li", "", (first ? "first" : "") + (photo.excluded ? " excluded" : ""));
  const button = make("button");
  button.type = "button";
  button.dataset.at = photo.at;
  button.setAttribute("aria-pressed", "false");
  const picture = make("img");
  picture.src = `/photo?at=${photo.at}&token=${encodeURIComponent(token)}`;
  picture.alt = `photo ${photo.name}`;
  picture.width = picture.height = 144;
  const name = make("bdi", (number ? `${number}. ` : "") + photo.name + (photo.excluded ? " (excluded)" : ""), "name");
  button.append(picture, name);
  button.addEventListener("click", () => toggle(photo.at));
  item.append(button);
  return item;
}

function toggle(at) {
  if (!selected.delete(at)) selected.add(at);
  mark();
}

function mark() {
  for (const button of document.querySelectorAll("button[data-at]"))
    button.setAttribute("aria-pressed", selected.has(Number(button.dataset.at)));
}

function showState(found) {
  state = found;
  element("progress").textContent = `${found.progress}. You are ${found.who}.`;
  element("meter").max = Math.max(found.total, 1);
  element("meter").value = found.seen;
  element("undo").disabled = !found.undo;
  element("redo").disabled = !found.redo;
  element("against").hidden = !found.contradictions.length;
  element("contradictions").replaceChildren(...found.contradictions.map((text) => make("li", text)));
}

async function show(key) {
  current = key;
  selected = new Set();
  if (!key) {
    shown = null;
    element("title").textContent = state.total ? "All questions are answered" : "There is nothing to ask";
    element("why").textContent = "Run `ffhqref build-refs` again: the grouping obeys what you said.";
    for (const id of ["sides", "near", "notes"]) element(id).replaceChildren();
    buttons();
    return;
  }
  shown = await ask(`/question?key=${key}`);
  const [, status] = state.order.find(([one]) => one === key) ?? [key, ""];
  element("title").textContent = shown.title;
  element("why").textContent = shown.why + (status ? ` Answered: ${status}.` : "");
  let number = 0;
  const sides = shown.sides.map((side) => {
    const card = make("div", "", "card");
    const list = make("ul", "", "photos");
    side.photos.forEach((photo, place) => list.append(photoItem(photo, ++number, place === 0)));
    if (side.more) list.append(make("li", `and ${side.more} more`, "more"));
    card.append(make("span", side.split || "no split", "tag"), list);
    return card;
  });
  element("sides").replaceChildren(...sides);
  element("near").replaceChildren(...shown.near.map((photo) => photoItem(photo, 0, false)));
  element("notes").replaceChildren(...shown.notes.map((text) => make("li", text)));
  buttons();
}

function buttons() {
  for (const id of ["same", "different", "skipped", "freeze", "likeness", "split", "exclude", "merge", "keep"])
    element(id).disabled = !shown;
  for (const id of ["previous", "next"]) element(id).disabled = !state.order.length;
}

function open() {
  return state.order.find(([, status]) => !status)?.[0] ?? null;
}

async function step(by) {
  const place = state.order.findIndex(([key]) => key === current);
  const count = state.order.length;
  if (count) await show(state.order[(place + by + count) % count][0]);
}

// What is pressed while something is under way is done after it, in order.
function guarded(act) {
  waiting = waiting.then(async () => {
    element("message").textContent = "";
    try {
      await act();
    } catch (error) {
      element("message").textContent = error.message;
    }
  });
  return waiting;
}

const answer = (kind, photos = () => [...selected], about = current) => guarded(async () => {
  if (!about || about !== current) return; // pressed twice: the next question was not seen yet
  const stays = ["exclude", "note", "merge"].includes(kind);
  showState(await ask("/answer", { kind, key: current, photos: photos(), note: element("note").value }));
  element("note").value = "";
  await show(stays ? current : open());
  if (!stays) element("question").focus();
});

const change = (path) => guarded(async () => {
  const before = new Map(state.order);
  showState(await ask(path, {}));
  const changed = state.order.find(([key, status]) => before.get(key) !== status);
  await show(changed ? changed[0] : current ?? open());
});

function near() {
  const there = new Set((shown?.near ?? []).map((photo) => photo.at));
  return [...selected].filter((at) => there.has(at));
}

function likeness() {
  const [left, right] = shown.sides;
  const smaller = left.photos.length < right.photos.length ? left : right;
  selected = new Set(smaller.photos.map((photo) => photo.at));
  mark();
}

const actions = {
  y: ["same", () => answer("same", () => [])],
  n: ["different", () => answer("different", () => [])],
  s: ["skipped", () => answer("skipped", () => [])],
  f: ["freeze", () => answer("freeze", () => [])],
  l: ["likeness", () => guarded(async () => shown && likeness())],
  p: ["split", () => answer("split")],
  x: ["exclude", () => answer("exclude")],
  m: ["merge", () => answer("merge", near)],
  u: ["undo", () => change("/undo")],
  r: ["redo", () => change("/redo")],
  j: ["previous", () => guarded(() => step(-1))],
  k: ["next", () => guarded(() => step(1))],
};
for (const [id, act] of Object.values(actions)) element(id).addEventListener("click", act);
element("keep").addEventListener("click", () => answer("note"));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.id === "note") {
    if (event.key === "Escape") element("question").focus();
    if (event.key === "Enter") answer("note");
    return;
  }
  const key = event.key.toLowerCase();
  if (/^[1-9]$/.test(key)) {
    document.querySelectorAll("#sides button[data-at]")[Number(key) - 1]?.click();
  } else if (key === "t") {
    event.preventDefault();
    element("note").focus();
  } else if (actions[key]) {
    event.preventDefault();
    actions[key][1]();
  }
});

// Another window may have answered meanwhile.
window.addEventListener("focus", () => guarded(async () => showState(await ask("/state"))));
guarded(async () => {
  showState(await ask("/state"));
  await show(open() ?? state.order[0]?.[0] ?? null);
});
