// Sends chosen, dropped or pasted images to this server's API, one after another, and shows what it answers.
// Labels, names and errors go in as text, never as HTML. URLs are relative, so that a proxy may put a prefix before them.
"use strict";

const KEPT = 30; // results on the page, the oldest go first: each holds its image in memory
const RAW = 4000; // characters shown of an answer that is not a classifier's

const element = (id) => document.getElementById(id);
let served = []; // of graftline/models.json
let listed = ""; // what the select was made from
let queue = Promise.resolve();

function make(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// TensorFlow puts the nodes of the graph around its sentence: nothing for who looks at a photo.
function plain(error = "") {
  const lines = error.split("[[{{")[0].replace(/\{\{.*?\}\}/g, "").split("\n");
  return lines.map((line) => line.trim()).filter(Boolean).pop();
}

async function ask(url, body) {
  let response, text;
  try {
    response = await fetch(url, body === undefined ? {} : { method: "POST", body });
    text = await response.text();
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    found = {};
  }
  if (response.ok) return found;
  const message = plain(found.error) || `The server answered with status ${response.status}.`;
  throw Object.assign(new Error(message), { status: response.status });
}

// The choices: for each model the highest version, whichever that is by then, and any other that is loaded as well.
async function refresh() {
  served = (await ask("graftline/models.json")).models;
  if (JSON.stringify(served) !== listed) list();
  if (element("model").disabled) throw new Error("No model is loaded here that takes an image.");
}

function list() {
  listed = JSON.stringify(served);
  const select = element("model");
  const before = select.value;
  const options = served.flatMap(({ name, versions, images }) => {
    const [newest, ...others] = versions;
    if (newest === undefined) return [{ text: `${name} (not loaded)` }];
    if (!images) return [{ text: `${name} (takes no image)` }];
    return [
      { text: `${name}, version ${newest}`, value: JSON.stringify([name]) },
      ...others.map((version) => ({ text: `${name}, version ${version}`, value: JSON.stringify([name, version]) })),
    ];
  });
  select.replaceChildren(
    ...options.map(({ text, value }) => {
      const option = new Option(text, value ?? "");
      option.disabled = value === undefined;
      return option;
    }),
  );
  const open = options.filter(({ value }) => value !== undefined);
  select.disabled = !open.length;
  select.value = (open.find(({ value }) => value === before) ?? open[0])?.value ?? "";
}

function chosen() {
  const [name, version] = JSON.parse(element("model").value);
  return { name, version: version ?? served.find((model) => model.name === name).versions[0] };
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(file);
  });
}

// What the server decodes, by its first bytes.
async function isDecodable(file) {
  const head = String.fromCharCode(...new Uint8Array(await file.slice(0, 4).arrayBuffer()));
  return ["\xff\xd8\xff", "\x89PNG", "GIF8", "BM"].some((start) => head.startsWith(start));
}

// What the browser sees in a file, upright, as PNG.
async function redrawn(file) {
  const canvas = make("canvas");
  const bitmap = await createImageBitmap(file);
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  const png = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!png) throw new Error("The image is too large.");
  return png;
}

// The file as it is, or else as the browser draws it where the server has no decoder for it: WebP, AVIF.
async function classify(file) {
  if (!file.size) throw new Error("The file is empty.");
  try {
    return await send(file);
  } catch (error) {
    if (error.status !== 400 || (await isDecodable(file))) throw error;
  }
  let png;
  try {
    png = await redrawn(file);
  } catch {
    throw new Error("not an image that can be classified: use JPEG, PNG, GIF or BMP");
  }
  return send(png);
}

// The version is named in the request, so that the one shown is the one that answered. It may be replaced between the
// look and the request: then a second look finds the new one.
async function send(file) {
  const body = JSON.stringify({ instances: [{ b64: await base64(file) }] });
  for (let attempt = 1; ; attempt += 1) {
    await refresh();
    const { name, version } = chosen();
    try {
      const answer = await ask(`v1/models/${encodeURIComponent(name)}/versions/${version}:predict`, body);
      return { name, version, prediction: answer.predictions[0] };
    } catch (error) {
      if (error.status !== 404 || attempt === 3) throw error;
    }
  }
}

function classes({ top_k_labels: labels, top_k_scores: scores }) {
  const list = make("ol", "classes");
  labels.forEach((label, index) => {
    const row = make("li");
    const meter = make("meter");
    meter.value = scores[index];
    meter.setAttribute("aria-hidden", "true"); // the figure says it
    row.append(make("span", "", label), meter, make("span", "", `${(100 * scores[index]).toFixed(1)} %`));
    list.append(row);
  });
  return list;
}

function card(file) {
  const made = make("li", "card");
  const image = make("img");
  image.alt = "";
  image.onload = () => URL.revokeObjectURL(image.src);
  image.onerror = () => image.remove();
  image.src = URL.createObjectURL(file);
  const said = make("div", "said");
  said.append(make("h2", "", file.name), make("p", "by", "Waiting for the answer …"));
  made.append(image, said);
  made.setAttribute("aria-busy", "true");
  return made;
}

async function show(file, made) {
  const said = made.querySelector(".said");
  const line = said.querySelector("p");
  try {
    const { name, version, prediction } = await classify(file);
    line.textContent = `${name}, version ${version}`;
    const isClassifier = Array.isArray(prediction?.top_k_labels) && Array.isArray(prediction.top_k_scores);
    said.append(isClassifier ? classes(prediction) : make("pre", "", JSON.stringify(prediction, null, 1).slice(0, RAW)));
  } catch (error) {
    line.className = "error";
    line.setAttribute("role", "alert");
    line.textContent = error.message;
  }
  made.removeAttribute("aria-busy");
  for (const old of [...document.querySelectorAll(".card:not([aria-busy])")].slice(KEPT)) old.remove();
}

function problem(text) {
  element("problem").textContent = text;
  element("problem").hidden = !text;
}

function take(files) {
  problem(files.length ? "" : "That is no file. Save the image first, then drop the file.");
  for (const file of files) {
    const made = card(file);
    element("results").prepend(made);
    queue = queue.then(() => show(file, made));
  }
}

element("file").addEventListener("change", (event) => {
  if (event.target.files.length) take([...event.target.files]);
  event.target.value = ""; // so that the same file can be chosen again
});
element("model").addEventListener("change", () => problem(""));
// On the whole window: a file dropped beside the field would otherwise replace the page.
addEventListener("dragover", (event) => {
  event.preventDefault();
  element("drop").classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) element("drop").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  element("drop").classList.remove("over");
  take([...event.dataTransfer.files]);
});
addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take([...event.clipboardData.files]);
});

refresh().catch((error) => problem(error.message));
