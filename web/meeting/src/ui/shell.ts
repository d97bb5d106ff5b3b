/** The frame of every moment outside the meeting: lobby, waiting, end. One layout, so that nothing jumps. */
import mark from "../mark.svg";
import { text } from "../text.ts";
import { h } from "./dom.ts";
import { icon } from "./icons.ts";
import { currentTheme, setTheme } from "./theme.ts";

/** The page's mark. */
export function logo(): HTMLElement {
  return h("img", { class: "mark", src: mark, alt: "", width: "28", height: "28" });
}

/** A page with the product's header and `footnote` around `content`. */
export function shell(content: HTMLElement, footnote: string): HTMLElement {
  return h(
    "div",
    { class: "shell" },
    h(
      "header",
      {},
      h("span", { class: "logo" }, logo(), text.product),
      h("span", { class: "grow" }),
      themeSwitch(),
    ),
    content,
    h("footer", {}, h("span", {}, footnote), h("span", {}, text.lobby.product)),
  );
}

function themeSwitch(): HTMLButtonElement {
  const button = h("button", { type: "button", class: "icon-button" });
  const show = () => {
    const isDark = currentTheme() === "dark";
    button.ariaLabel = isDark ? text.lobby.toLight : text.lobby.toDark;
    button.title = button.ariaLabel;
    button.replaceChildren(icon(isDark ? "sun" : "moon"));
  };
  button.onclick = () => {
    setTheme(currentTheme() === "dark" ? "light" : "dark");
    show();
  };
  show();
  return button;
}
