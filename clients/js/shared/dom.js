// @ts-check
// Functions with which the elements build and update their content.

/**
 * Creates an element with attributes and children. "p.name" is a `p` whose class and part are "name".
 * @param {string} what @param {Record<string, string>} [attributes] @param {(Node | string)[]} children
 */
export function make(what, attributes = {}, ...children) {
  const [tag, name] = what.split(".");
  const namespace = /svg|path|circle/.test(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const element = document.createElementNS(namespace, tag);
  for (const [key, value] of Object.entries({ ...(name && { class: name, part: name }), ...attributes })) {
    element.setAttribute(key, value);
  }
  element.append(...children);
  return /** @type {HTMLElement} */ (element);
}

/**
 * Creates a button that calls a function.
 * @param {string} name class and part @param {() => void} act @param {Record<string, string>} [attributes]
 */
export function makeButton(name, act, attributes) {
  const button = make(`button.${name}`, { type: "button", ...attributes });
  button.addEventListener("click", act);
  return button;
}

/**
 * Sets the text of an element if it is another, because screen readers announce each change.
 * @param {Element} element @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
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
