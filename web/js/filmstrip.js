// Save Animation: the frames side by side, and a slider that holds one of them still beside them, with its place on the
// way. Low, so that the editor's own preview, which plays, keeps its room above.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { afterRun, make, show } from "./widget.js";

const THUMB = 48;
const LARGE = 112;
const MOST = 128; // frames; a longer animation is shown by evenly spread ones
const TYPES = { webp: "image/webp", gif: "image/gif" };
const PATHS = {
  UnCLIPSlerp: ["start", "end"],
  UnCLIPSlerpNoise: ["start", "end"],
  UnCLIPTextDiff: ["start_theta", "end_theta"],
};

app.registerExtension({
  name: "unclip.filmstrip",
  beforeRegisterNodeDef(nodeType, nodeData) {
    if (nodeData.name === "UnCLIPSaveAnimation") afterRun(nodeType, draw);
  },
});

async function draw(node, output) {
  const file = output?.images?.[0];
  const type = TYPES[file?.filename?.split(".").pop()];
  if (!type || typeof ImageDecoder === "undefined") return; // the editor's own preview plays it all the same
  const frames = await decode(file, type, output.frames?.[0]);
  if (frames.pictures.length < 2 || !node.graph) return; // the node may have left the canvas while its frames came
  show(node, "unclip_filmstrip", strip(frames, path(node, frames.total)), LARGE);
}

/** The first `count` frames (those that go forwards), as canvases, and how many there are. */
async function decode(file, type, count) {
  const query = new URLSearchParams({ filename: file.filename, subfolder: file.subfolder ?? "", type: file.type });
  const answer = await api.fetchApi(`/view?${query}`);
  if (!answer.ok) throw new Error(`${file.filename}: ${answer.status}`);
  const decoder = new ImageDecoder({ data: await answer.arrayBuffer(), type });
  try {
    await decoder.tracks.ready;
    await decoder.completed; // only then is the number of frames final
    const total = Math.min(count ?? Infinity, decoder.tracks.selectedTrack.frameCount);
    const pictures = [];
    for (let place = 0; place < Math.min(total, MOST); place++) {
      const frameIndex = total > MOST ? Math.round((place * (total - 1)) / (MOST - 1)) : place;
      const { image } = await decoder.decode({ frameIndex });
      pictures.push({ frameIndex, canvas: copy(image, image.displayWidth, image.displayHeight, LARGE) });
      image.close();
    }
    return { pictures, total };
  } finally {
    decoder.close();
  }
}

function copy(image, width, height, side) {
  const scale = Math.min(1, side / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function strip({ pictures, total }, where) {
  const held = make("div", { width: `${LARGE}px`, height: `${LARGE}px`, flex: "none" });
  const caption = make("div", { textAlign: "center", fontSize: "11px", color: "var(--input-text, #ddd)" });
  const slider = make("input", { width: "100%", margin: "0" });
  Object.assign(slider, { type: "range", min: 0, max: pictures.length - 1, step: 1, value: 0 });
  const row = make("div", { display: "flex", overflowX: "auto", gap: "2px", scrollbarWidth: "thin" });
  const thumbs = pictures.map(({ canvas }, place) => {
    const thumb = copy(canvas, canvas.width, canvas.height, THUMB);
    Object.assign(thumb.style, { cursor: "pointer", flex: "none", outlineOffset: "-2px" });
    thumb.onclick = () => hold(place);
    return thumb;
  });
  row.append(...thumbs);

  function hold(place) {
    slider.value = place;
    held.replaceChildren(pictures[place].canvas);
    thumbs.forEach((thumb, other) => (thumb.style.outline = other === place ? "2px solid currentColor" : ""));
    const frame = pictures[place].frameIndex;
    caption.textContent = `${frame + 1} / ${total}` + (where ? ` · ${where.name} ${where.at(frame).toFixed(2)}` : "");
  }
  slider.oninput = () => hold(Number(slider.value));
  hold(0);
  // Dragging the slider must not drag the node.
  for (const kind of ["pointerdown", "mousedown"]) slider.addEventListener(kind, (event) => event.stopPropagation());
  const side = { flex: "1", minWidth: "0", display: "flex", flexDirection: "column", justifyContent: "center", gap: "4px" };
  const box = { display: "flex", gap: "8px", color: "var(--p-primary-color, #4a8)" };
  return make("div", box, held, make("div", side, row, slider, caption));
}

/** Where the frames lie on the nearest Slerp or Text Diff above the node, if its frames are the animation's. */
function path(node, total) {
  const graph = node.graph ?? app.graph;
  const waiting = [node];
  const seen = new Set();
  while (waiting.length) {
    const current = waiting.shift();
    if (!current || seen.has(current.id)) continue;
    seen.add(current.id);
    const names = PATHS[current.comfyClass ?? current.type];
    const value = (name) => Number(current.widgets?.find((widget) => widget.name === name)?.value);
    if (names && value("frames") === total) {
      const [start, end] = names.map(value);
      const name = current.comfyClass === "UnCLIPTextDiff" ? "θ" : "→";
      return { name, at: (frame) => start + ((end - start) * frame) / Math.max(1, total - 1) };
    }
    for (let slot = 0; slot < (current.inputs?.length ?? 0); slot++) waiting.push(current.getInputNode?.(slot));
  }
  return null;
}
