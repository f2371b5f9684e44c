// @ts-check
// Functions with which the elements build and update their content.

/**
 * Creates an element with attributes and children. "p.name" is a `p` whose class and part are "name".
 * @param {string} what @param {Record<string, string>} [attributes] @param {(Node | string)[]} children
 */
export function make(what, attributes = {}, ...children) {
  const [tag, name] = what.split(".");
  const element = /svg|path|circle/.test(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [key, value] of Object.entries({ ...(name && { class: name, part: name }), ...attributes })) {
    element.setAttribute(key, value);
  }
  element.append(...children);
  return /** @type {HTMLElement} */ (element);
}

/** Creates an icon. @param {Node[]} shapes */
export const makeIcon = (...shapes) => make("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, ...shapes);

/**
 * Creates a button that calls a function.
 * @param {string} name class and part @param {() => void} act @param {Record<string, string>} [attributes]
 */
export function makeButton(name, act, attributes) {
  // A button in a shadow tree belongs to no form, so it needs no type.
  const button = make(`button.${name}`, attributes);
  button.onclick = act;
  return button;
}

/**
 * Sets the text of an element if it is another, because screen readers announce each change.
 * @param {Element} element @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Replaces the children of an element if they are to show something else. An element that does not change keeps the
 * place of a screen reader, and its focus.
 * @param {HTMLElement} element @param {unknown[]} shown @param {() => (Node | string)[]} build
 */
export function setChildren(element, shown, build) {
  const text = JSON.stringify(shown);
  if (element.dataset.of === text) return;
  element.dataset.of = text;
  element.replaceChildren(...build());
}

/** Attaches a shadow tree with a style. @param {HTMLElement} host @param {string} style @param {Node} content */
export function attach(host, style, content) {
  const root = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(style);
  root.adoptedStyleSheets = [sheet];
  root.append(content);
  return root;
}
