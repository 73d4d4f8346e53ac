// Marks each flag within a line of text, such as --image-size: a browser would break it at its hyphens.
for (const code of document.querySelectorAll("main :not(pre) > code")) {
    code.innerHTML = code.innerHTML.replace(/(?<=^|\s)--?[a-z][\w-]*/g, '<span class="flag">$&</span>');
}
