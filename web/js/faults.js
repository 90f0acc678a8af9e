// The reason of an error on the node itself: recent editors mark the node alone, and keep the reason behind two clicks.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { hide, make, show } from "./widget.js";

const NAME = "unclip_fault";
const LINE = 15;
const LINES = 8; // more are scrolled to
const LETTER = 6; // pixels of one, on average
const marked = new Map(); // node -> its size without the text

app.registerExtension({
  name: "unclip.faults",
  setup() {
    api.addEventListener("execution_start", clear);
    api.addEventListener("execution_error", ({ detail }) => tell(detail?.node_id, detail?.exception_message));
    const queue = app.queuePrompt;
    app.queuePrompt = async function () {
      clear();
      const result = await queue.apply(this, arguments);
      for (const [id, { errors }] of Object.entries(app.lastNodeErrors ?? {})) {
        tell(id, errors?.map((error) => error.details || error.message).join("\n"));
      }
      return result;
    };
  },
});

function tell(id, text) {
  const node = app.graph?.getNodeById?.(id);
  const kind = node?.comfyClass ?? node?.type;
  if (!text || !String(kind).startsWith("UnCLIP")) return;
  if (!marked.has(node)) marked.set(node, [...node.size]);
  const style = { overflowY: "auto", whiteSpace: "pre-wrap", overflowWrap: "anywhere", fontSize: "11px", userSelect: "text" };
  const box = make("div", { ...style, lineHeight: `${LINE}px`, color: "var(--p-red-400, #f66)" }, text);
  const columns = Math.max(20, (node.size[0] - 20) / LETTER);
  const lines = text.split("\n").reduce((sum, line) => sum + Math.max(1, Math.ceil(line.length / columns)), 0);
  show(node, NAME, box, Math.min(lines, LINES) * LINE);
  app.canvas?.bringToFront?.(node); // it has grown over what lies below
}

function clear() {
  for (const [node, size] of marked) {
    hide(node, NAME);
    node.setSize(size);
  }
  marked.clear();
}
