"use strict";

/** Pictures: stored once in the page, decoded when they are about to be seen. */
Report.images = (() => {
  const { h } = Report;
  const waiting = new Map();
  const source = (number) => {
    const block = document.getElementById(`image-${number}`);
    return block ? `data:${block.dataset.mime};base64,${block.textContent}` : null;
  };
  const load = (image) => {
    const url = source(image.dataset.number);
    if (url) {
      image.src = url;
      image.classList.remove("placeholder");
    } else {
      waiting.set(image, true); // the page is still being read
    }
  };
  document.addEventListener("DOMContentLoaded", () => {
    for (const image of waiting.keys()) load(image);
    waiting.clear();
  });
  const seen = new IntersectionObserver(
    (entries) => {
      for (const entry of entries)
        if (entry.isIntersecting) {
          seen.unobserve(entry.target);
          load(entry.target);
        }
    },
    { rootMargin: "300px" },
  );

  /** An image that is loaded when it is about to be seen. */
  const lazy = (picture, attributes = {}) => {
    const image = h("img", {
      class: "picture placeholder",
      width: picture.w,
      height: picture.h,
      alt: picture.caption,
      "data-number": picture.image,
      ...attributes,
    });
    seen.observe(image);
    return image;
  };

  /** Show another picture in an image. */
  const show = (image, picture) => {
    if (Number(image.dataset.number) === picture.image && image.src) return;
    image.dataset.number = picture.image;
    image.width = picture.w;
    image.height = picture.h;
    image.alt = picture.caption;
    if (image.src) load(image); // else it is loaded when it is seen
  };

  /** A slider with a button that plays it. */
  const slider = (labels, name, stored, change) => {
    let timer = null;
    const last = labels.length - 1;
    const first = Math.min(Report.state.get(stored, last), last);
    const output = h("output", {});
    const input = h("input", {
      type: "range",
      min: 0,
      max: last,
      step: 1,
      value: first,
      "aria-label": name,
      input: () => {
        Report.state.set(stored, Number(input.value) === last ? undefined : Number(input.value));
        update();
      },
    });
    const update = () => {
      const index = Number(input.value);
      output.textContent = labels[index];
      input.setAttribute("aria-valuetext", labels[index]);
      change(index);
    };
    const stop = () => {
      clearInterval(timer);
      timer = null;
      button.textContent = "Play";
    };
    const button = h(
      "button",
      {
        type: "button",
        click: () => {
          if (timer) return stop();
          if (Number(input.value) === last) input.value = 0;
          update();
          button.textContent = "Stop";
          timer = setInterval(
            () => {
              if (Number(input.value) >= last) return stop();
              input.value = Number(input.value) + 1;
              update();
            },
            Math.max(120, 4000 / labels.length),
          );
        },
      },
      "Play",
    );
    update();
    const bar = h("div", { class: "bar" }, last > 0 ? [button, input] : null, output);
    bar.choose = (index) => {
      input.value = index;
      input.dispatchEvent(new Event("input"));
    };
    return bar;
  };

  /** The sample grids of one run under a slider, beside all of them in small. */
  const viewer = (pictures, total, stored = "epoch") => {
    const image = lazy(pictures[pictures.length - 1]);
    const labels = pictures.map((picture) => `epoch ${picture.epoch}${total ? ` of ${total}` : ""}`);
    const thumbs = pictures.map((picture, index) =>
      h(
        "button",
        { type: "button", class: "thumb", "aria-label": `Show epoch ${picture.epoch}`, click: () => bar.choose(index) },
        lazy(picture, { alt: "" }),
        h("span", {}, `${picture.epoch}`),
      ),
    );
    const bar = slider(labels, "Epoch of the samples", stored, (index) => {
      show(image, pictures[index]);
      for (const [number, thumb] of thumbs.entries()) thumb.setAttribute("aria-pressed", String(number === index));
    });
    const size = { style: { "--thumb": pictures.length <= 12 ? "190px" : "104px" } };
    const strip = h("div", { class: "thumbs", role: "group", "aria-label": "Epochs", ...size }, thumbs);
    return h(
      "div",
      { class: "viewer" },
      bar,
      h("div", { class: "body" }, h("div", { class: "stage" }, image), pictures.length > 1 ? strip : null),
    );
  };

  return { lazy, show, slider, viewer };
})();
