"use strict";
const find = (id) => document.getElementById(id);
const make = (name, text = "", kind = "") => Object.assign(document.createElement(name), { textContent: text, className: kind });
let limits = { images: 64, body_bytes: 16e6, image_bytes: 8e6 };
let shown = [];

fetch("/health").then((answer) => answer.json()).then((about) => {
  limits = about.limits;
  find("about").textContent = `${about.recognizer}: decoder ${about.decoder}, ${about.characters.length} characters, images become ${about.image_size[1]} × ${about.image_size[0]} pixels`;
}).catch(() => say("the server does not answer", true));

function say(text, wrong = false) {
  find("state").textContent = text;
  find("state").className = wrong ? "wrong" : "";
}

// As many requests as the limits ask for; a file too large is left to the server to refuse.
function parcels(files) {
  const found = [[]];
  let bytes = 0;
  for (const file of files) {
    const last = found.at(-1);
    if (last.length && (last.length >= limits.images || bytes + file.size > 0.9 * limits.body_bytes)) {
      found.push([]);
      bytes = 0;
    }
    found.at(-1).push(file);
    bytes += file.size;
  }
  return found;
}

async function read(files) {
  files = [...files];
  if (!files.length) return;
  let done = 0;
  const before = find("words").firstChild;
  const started = performance.now();
  for (const parcel of parcels(files)) {
    say(`reading ${done + 1} to ${done + parcel.length} of ${files.length} …`);
    const form = new FormData();
    for (const file of parcel) form.append("image", file, file.name);
    form.append("attention", "1");
    let answer;
    try {
      answer = await (await fetch("/read", { method: "POST", body: form })).json();
    } catch {
      return say("the server does not answer, or has closed the connection: is an image larger than its limits?", true);
    }
    if (answer.error) return say(`${answer.error.field}: ${answer.error.value}; ${answer.error.remedy}`, true);
    answer.words.forEach((word, i) => show(word, parcel[i], before));
    done += parcel.length;
  }
  const wrong = shown.slice(-files.length).filter((word) => word.error).length;
  const seconds = ((performance.now() - started) / 1000).toFixed(2);
  say(`${files.length - wrong} of ${files.length} images read in ${seconds} s`, wrong === files.length);
}

function show(word, file, before) {
  const item = make("li");
  const box = make("div", "", word.attention ? "shown" : "shown natural");
  const image = make("img");
  image.alt = word.image;
  image.src = URL.createObjectURL(file);
  box.append(image);
  if (!word.error) item.append(box);
  if (word.error) {
    item.append(make("p", "not read", "text empty"), make("p", `${word.image}: ${word.error.value}; ${word.error.remedy}`, "sure wrong"));
  } else {
    item.append(make("p", word.text || "(nothing read)", word.text ? "text" : "text empty"));
    item.append(make("p", `${percent(word.confidence)} sure of the word · ${word.image}`, "sure"));
    item.append(characters(word, box));
  }
  find("words").insertBefore(item, before);
  shown.push(word);
  find("tools").hidden = false;
}

const percent = (share) => `${(100 * share).toFixed(share > 0.99 && share < 0.9995 ? 1 : 0)} %`;

function characters(word, box) {
  const list = make("ul", "", "characters");
  word.characters.forEach(([character, sure], place) => {
    const item = make("li");
    item.append(make("b", character), make("span", percent(sure)));
    item.style.background = `hsl(${Math.round(8 + 122 * sure * sure)} 62% 76%)`;
    if (word.attention) {
      find("lit").hidden = false;
      item.tabIndex = 0;
      const on = () => light(box, word.attention[place]);
      const off = () => box.querySelector("canvas")?.remove();
      for (const name of ["pointerenter", "focus", "click"]) item.addEventListener(name, on);
      for (const name of ["pointerleave", "blur"]) item.addEventListener(name, off);
    }
    list.append(item);
  });
  return list;
}

function light(box, weights) {
  box.querySelector("canvas")?.remove();
  const canvas = make("canvas");
  canvas.width = weights.length;
  canvas.height = 1;
  const pen = canvas.getContext("2d");
  const most = Math.max(...weights);
  weights.forEach((weight, column) => {
    pen.fillStyle = `rgba(10, 12, 20, ${0.8 * (1 - weight / most)})`;
    pen.fillRect(column, 0, 1, 1);
  });
  box.append(canvas);
}

const drop = find("drop");
for (const name of ["dragenter", "dragover"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const name of ["dragleave", "drop"]) drop.addEventListener(name, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => { event.preventDefault(); read(event.dataTransfer.files); });
for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
addEventListener("paste", (event) => read(event.clipboardData.files));
find("files").addEventListener("change", (event) => { const files = [...event.target.files]; event.target.value = ""; read(files); });
find("copy").addEventListener("click", () => navigator.clipboard.writeText(JSON.stringify(shown, null, 1)).then(() => say("copied"), () => say("the browser does not allow copying here", true)));
find("clear").addEventListener("click", () => { shown = []; for (const image of document.querySelectorAll("#words img")) URL.revokeObjectURL(image.src); find("words").replaceChildren(); find("tools").hidden = true; say(""); });
