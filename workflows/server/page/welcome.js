// Says what this editor is, and opens with a graph that runs here instead of the editor's own first graph.
import { app } from "/scripts/app.js";

const GRAPH = "text_to_image";
const STAYS = 15000; // milliseconds
const SEEN = "unclip-edit.welcome";
const TEXT = {
  en: {
    summary: "The unCLIP editor",
    detail:
      "This is the stock ComfyUI page with the nodes of this pack alone. Graphs are under Templates; " +
      "press Run. For other nodes and models, install ComfyUI and put this pack into custom_nodes: " +
      "the same graphs open there.",
  },
  zh: {
    summary: "unCLIP 编辑器",
    detail:
      "这是标准的 ComfyUI 页面，只带本扩展包的节点。工作流在“模板”里，点“运行”即可。" +
      "需要其他节点和模型时，请安装 ComfyUI，把本扩展包放进 custom_nodes：同样的工作流在那里也能打开。",
  },
};

function words() {
  const language = app.ui?.settings?.getSettingValue?.("Comfy.Locale") ?? navigator.language;
  return String(language).startsWith("zh") ? TEXT.zh : TEXT.en;
}

/** A card at the foot of the canvas, where no step of a graph lies; a click closes it. */
function welcome() {
  const { summary, detail } = words();
  const [title, text] = ["strong", "div"].map((tag) => document.createElement(tag));
  title.textContent = summary;
  text.textContent = detail;
  const card = document.createElement("div");
  card.append(title, text);
  card.id = "unclip-welcome";
  card.setAttribute("role", "status");
  card.style.cssText =
    "position: fixed; left: 84px; bottom: 16px; max-width: 560px; z-index: 1000; padding: 10px 14px; cursor: pointer; " +
    "font-size: 13px; line-height: 1.4; border-radius: 8px; border: 1px solid var(--border-color, #4e4e4e); " +
    "color: var(--input-text, #ddd); background: var(--comfy-menu-bg, #353535)";
  card.onclick = () => card.remove();
  document.getElementById(card.id)?.remove();
  document.body.append(card);
  setTimeout(() => card.remove(), STAYS);
}

app.registerExtension({
  name: "unclip.edit",
  aboutPageBadges: [{ label: "unclip edit: the nodes of comfyui-unclip alone", url: "/", icon: "pi pi-info-circle" }],
  commands: [{ id: "unclip.about", label: "What is this editor?", icon: "pi pi-info-circle", function: welcome }],
  menuCommands: [{ path: ["Help"], commands: ["unclip.about"] }],

  async init() {
    const first = window.comfyAPI?.defaultGraph?.defaultGraph;
    const answer = await fetch(`/api/workflow_templates/comfyui-unclip/${GRAPH}.json`);
    if (!first || !answer.ok) return;
    for (const key of Object.keys(first)) delete first[key];
    Object.assign(first, await answer.json());
    delete first.extra?.ds; // no place and zoom of its own: the page then shows the whole of it
  },

  async setup() {
    // There is no account to sign in to; pages ask for this in different ways, and not all heed the answer.
    const style = document.createElement("style");
    style.textContent = '[data-testid="login-button"] { display: none }';
    document.head.append(style);
    if (localStorage.getItem(SEEN)) return;
    localStorage.setItem(SEEN, "yes");
    welcome();
  },
});
