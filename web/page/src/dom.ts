/** Elements by name. Text is always text: nothing here takes markup. */
type Child = Node | string | null | false | undefined;
type Attributes = Record<string, string | number | boolean | null | undefined | ((event: Event) => void)>;

export function el<K extends keyof HTMLElementTagNameMap>(name: K, attributes: Attributes = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(name);
  set(element, attributes);
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false) as (Node | string)[]);
  return element;
}

export function svg(name: string, attributes: Attributes = {}, ...children: Node[]): SVGElement {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  set(element, attributes);
  element.append(...children);
  return element;
}

function set(element: Element, attributes: Attributes): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
}

export function by(id: string): HTMLElement {
  const element = document.getElementById(id);
  if (!element) throw new Error(`no #${id}`);
  return element;
}

/** "3 days ago", in the reader's language. */
export function ago(at: string): string {
  const days = Math.floor((Date.now() - Date.parse(at)) / 86_400_000);
  return days <= 0 ? "today" : new Intl.RelativeTimeFormat(undefined, { numeric: "auto" }).format(-days, "day");
}

/** Puts a text there; nothing is touched where it is there already. */
export function put(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** A button that becomes a link once it is known where to. */
export function link(text: string, where: () => Promise<[href: string, text: string] | null>): HTMLElement {
  const button = el("button", { type: "button", class: "link", click: async () => {
    const found = await where();
    if (!found || !button.isConnected) return;
    const anchor = el("a", { href: found[0], target: "_blank", rel: "noreferrer noopener" }, found[1]);
    // Who has gone on meanwhile stays where they are.
    const here = document.activeElement === button;
    button.replaceWith(anchor);
    if (here) anchor.focus();
  } }, text);
  return button;
}
